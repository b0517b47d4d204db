import eslint from '@eslint/js';
import tseslint from 'typescript-eslint';

/**
 * The rooms of src/, from the top down. A room may import the rooms after it, never one before it,
 * and from another room only its index.ts.
 */
const rooms = ['cli', 'layercache', 'volume', 'layer', 'registry', 'dockerfile', 'oci', 'os', 'support'];

const downwardImports = rooms.map((room) => ({
  files: [`src/${room}/**/*.ts`],
  rules: {
    'no-restricted-imports': [
      'error',
      {
        patterns: [
          {
            regex: `(^|/)(executor|warmer)/|^(?:\\.\\./)+(${rooms.slice(0, rooms.indexOf(room)).join('|') || 'none'})/`,
            message: 'Imports point down: see the order of rooms in docs/architecture.md.',
          },
          {
            regex: `^(?:\\.\\./)+(${rooms.join('|')})/(?!index\\.ts$)`,
            message: 'Import a room through its index.ts.',
          },
        ],
      },
    ],
  },
}));

/** @param {string} self @param {string} other */
const topLevel = (self, other) => ({
  files: [`${self}/**/*.ts`],
  rules: {
    'no-restricted-imports': [
      'error',
      {
        patterns: [
          { regex: `(^|/)${other}/`, message: `${self}/ and ${other}/ share code through src/ only.` },
          {
            regex: `/src/(${rooms.join('|')})/(?!index\\.ts$)`,
            message: 'Import a room through its index.ts.',
          },
        ],
      },
    ],
  },
});

export default tseslint.config(
  { ignores: ['dist/', 'node_modules/', '.cache/', 'examples/'] },
  eslint.configs.recommended,
  ...tseslint.configs.recommendedTypeChecked,
  {
    languageOptions: {
      parserOptions: {
        projectService: { allowDefaultProject: ['eslint.config.js', 'warmer/daemon/page/page.js'] },
        tsconfigRootDir: import.meta.dirname,
      },
    },
    rules: {
      '@typescript-eslint/no-floating-promises': [
        'error',
        {
          allowForKnownSafeCalls: [
            {
              from: 'package',
              name: ['test', 'it', 'describe', 'suite', 'before', 'after', 'beforeEach', 'afterEach'],
              package: 'node:test',
            },
          ],
        },
      ],
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_' }],
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true, allowNullish: false },
      ],
      'no-empty': ['error', { allowEmptyCatch: false }],
      'no-console': 'error',
      eqeqeq: ['error', 'always', { null: 'ignore' }],
    },
  },
  ...downwardImports,
  topLevel('executor', 'warmer'),
  topLevel('warmer', 'executor'),
  {
    files: ['scripts/**', 'bench/**', 'test/**'],
    rules: { 'no-console': 'off' },
  },
  { files: ['eslint.config.js'], extends: [tseslint.configs.disableTypeChecked] },
  {
    // A script of the browser: tsc checks its names against the DOM (warmer/daemon/page/tsconfig.json).
    files: ['warmer/daemon/page/page.js'],
    extends: [tseslint.configs.disableTypeChecked],
    rules: { 'no-undef': 'off' },
  },
);
