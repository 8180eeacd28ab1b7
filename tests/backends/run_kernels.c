/* Runs kernels made for aarch64 as `test_numba_arm.py` tells it in one file, and says in another
   what came of it. Everything is a number of 64 bits, but for the content of memory. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int64_t word;
typedef void (*kernel)(word, word, word);

/* From a file that the test writes: kernels by number, and the pool of threads. */
extern word kernels[], pool[];

enum { KERNEL = -1, POOL = -2, WORDS = -3 }; /* what is put into a word, if not a region's address */
enum { ARGUMENTS = 4 };                      /* a kernel and what it is called with; a call descriptor follows */

struct region { word size, alignment, written; };
struct patch { word at, region, offset; };

static void need(int good, const char *what) {
    if (!good) {
        fprintf(stderr, "run_kernels: %s\n", what);
        exit(1);
    }
}

static void read_all(void *to, word size, FILE *in) {
    need(fread(to, 1, size, in) == (size_t)size, "the file of calls is too short");
}

static word modes(void) {
    word found;
    __asm__ volatile("mrs %0, fpcr" : "=r"(found) : : "memory");
    return found;
}

static void set_modes(word wanted) {
    __asm__ volatile("msr fpcr, %0" : : "r"(wanted) : "memory");
}

int main(int count, char **names) {
    need(count == 3, "usage: run_kernels CALLS RESULTS");
    FILE *in = fopen(names[1], "rb"), *out = fopen(names[2], "wb");
    need(in && out, "no such file");
    struct { word modes, words, regions, patches; } head;
    while (fread(&head, sizeof head, 1, in) == 1) {
        word *words = malloc(8 * head.words);
        struct region *regions = malloc(sizeof *regions * head.regions);
        struct patch *patches = malloc(sizeof *patches * head.patches);
        char **memory = malloc(2 * sizeof *memory * head.regions), **owned = memory + head.regions;
        read_all(words, 8 * head.words, in);
        read_all(regions, sizeof *regions * head.regions, in);
        read_all(patches, sizeof *patches * head.patches, in);
        for (word k = 0; k < head.regions; k++) {
            owned[k] = malloc(regions[k].size + 128);
            memory[k] = owned[k] + (-(uintptr_t)owned[k] & 63) + regions[k].alignment;
            read_all(memory[k], regions[k].size, in);
        }
        for (word k = 0; k < head.patches; k++) {
            struct patch p = patches[k];
            words[p.at] = p.region == KERNEL ? kernels[p.offset]
                          : p.region == POOL ? (word)pool
                          : p.region == WORDS ? (word)(words + p.offset)
                                              : (word)memory[p.region] + p.offset;
        }
        set_modes(head.modes);
        word had = modes();
        ((kernel)words[0])(words[1], words[2], words[3]);
        word left = modes();
        set_modes(0);
        fwrite(&had, 8, 1, out);
        fwrite(&left, 8, 1, out);
        for (word k = 0; k < head.regions; k++) {
            if (regions[k].written)
                fwrite(memory[k], 1, regions[k].size, out);
            free(owned[k]);
        }
        free(words), free(regions), free(patches), free(memory);
    }
    need(fclose(out) == 0, "the results cannot be written");
    return 0;
}
