import type { ProgressListener } from './events.ts';

/** One JSON object a line with the event's own fields and the time. Output is text, invalid UTF-8 replaced. */
export function jsonReporter(write: (data: string) => void): ProgressListener {
  return (event) => {
    const time = new Date().toISOString();
    const fields =
      event.type === 'output' ? { ...event, data: Buffer.from(event.data).toString('utf8') } : event;
    write(`${JSON.stringify({ time, ...fields })}\n`);
  };
}
