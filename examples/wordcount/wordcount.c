#include <ctype.h>
#include <stdio.h>

/* Prints the number of words of every file named. */
int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    FILE *file = fopen(argv[i], "r");
    if (file == NULL) {
      perror(argv[i]);
      return 1;
    }
    long words = 0;
    int inside = 0;
    for (int c = getc(file); c != EOF; c = getc(file)) {
      if (isspace(c)) {
        inside = 0;
      } else if (!inside) {
        inside = 1;
        words++;
      }
    }
    fclose(file);
    printf("%ld %s\n", words, argv[i]);
  }
  return 0;
}
