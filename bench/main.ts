/** npm run bench [name …]: runs all benchmarks, or those named. */
const all = [
  'start',
  'userns',
  'inplace',
  'cached',
  'cold',
  'memory',
  'daemon-memory',
  'scale',
  'transfer',
  'remote',
];
const names = process.argv.length > 2 ? process.argv.slice(2) : all;
for (const name of names) {
  console.log(`\n${name}`);
  await import(`./${name}.ts`);
}
