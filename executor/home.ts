/** Kiln's own directory in its containers: everything it needs lies there, and nothing of an image ever does. */
export const home = '/kiln';

/** Where builds keep their own files in such a container, when they have no better place. */
export const homeWork = `${home}/work`;

/** Whether this program runs from there. */
export function runsFromHome(): boolean {
  return import.meta.filename.startsWith(`${home}/`);
}
