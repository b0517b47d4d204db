/** npm run bench [name …]: runs all benchmarks, or those named. */
const names =
  process.argv.length > 2
    ? process.argv.slice(2)
    : ['start', 'cached', 'cold', 'memory', 'daemon-memory', 'scale'];
for (const name of names) {
  console.log(`\n${name}`);
  await import(`./${name}.ts`);
}
