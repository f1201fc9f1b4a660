/* What the kernels share: how they are compiled for a processor, and sums of products that lie side by side. */
#ifndef APS_VECTORS_H
#define APS_VECTORS_H

#include <math.h>
#include <stdint.h>

/* One function for several instruction sets; which is taken is decided when the library is loaded. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define HAS_CLONES 1
#else
#define FOR_EACH_PROCESSOR
#define HAS_CLONES 0
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

#if defined(__GNUC__) && !defined(__clang__)
#define NO_ALIASES _Pragma("GCC ivdep")
#else
#define NO_ALIASES
#endif

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* A position at most one size outside of 0 .. size-1, as the periodic map has it. */
INLINE int64_t wrapped(int64_t position, int64_t size) {
    return position < 0 ? position + size : position >= size ? position - size : position;
}

/* Writes `count` sums that lie side by side, each of num_rows x num_columns products; the values of the first begin at
 * rows[0 .. num_rows-1]. Every product is added by fmaf, left to right and top to bottom: the vector body, its scalar rest
 * and whoever adds in this order round alike. */
INLINE void correlated_span(const float *const *rows, const float *taps, const int64_t num_rows,
                            const int64_t num_columns, int64_t count, float *restrict out) {
    NO_ALIASES
    for (int64_t x = 0; x < count; x++) {
        float sum = 0.0f;
        for (int64_t r = 0; r < num_rows; r++)
            for (int64_t c = 0; c < num_columns; c++) sum = fmaf(taps[r * num_columns + c], rows[r][x + c], sum);
        out[x] = sum;
    }
}

#endif
