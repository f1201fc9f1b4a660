/* The 2 x 2 maximum pool of stride 1 on a periodic map, as it stands before a selection, and its gradient.
 *
 * Which of its four values was kept is one byte for every pixel, so the gradient is a sum of at most four values, in one
 * order, of the pixel's own task.
 */
#include "pool.h"

#include "vectors.h"

typedef struct {
    const float *from;
    const uint8_t *kept;
    float *to;
    uint8_t *keep;
    int64_t height, width;
} pooling;

/* Of four values the first largest; a NaN beats all numbers, the last one all others, as in PyTorch. */
INLINE void pooled_pixel(float a, float b, float c, float d, float *value, uint8_t *kept) {
    float best = a;
    int32_t number = 0;
    number = b > best || b != b ? 1 : number;
    best = b > best || b != b ? b : best;
    number = c > best || c != c ? 2 : number;
    best = c > best || c != c ? c : best;
    number = d > best || d != d ? 3 : number;
    best = d > best || d != d ? d : best;
    *value = best;
    *kept = (uint8_t)number;
}

FOR_EACH_PROCESSOR static void pool_channel(void *data, size_t task) {
    const pooling *job = data;
    const int64_t height = job->height, width = job->width, last = width - 1;
    const float *channel = job->from + (int64_t)task * height * width;
    for (int64_t y = 0; y < height; y++) {
        const int64_t at = ((int64_t)task * height + y) * width;
        const float *row = channel + y * width, *below = channel + wrapped(y + 1, height) * width;
        float *restrict to = job->to + at;
        uint8_t *restrict keep = job->keep + at;
        NO_ALIASES
        for (int64_t x = 0; x < last; x++) pooled_pixel(row[x], row[x + 1], below[x], below[x + 1], to + x, keep + x);
        pooled_pixel(row[last], row[0], below[last], below[0], to + last, keep + last);
    }
}

/* The gradient of one pixel of a row: of the pools above and beside it, which begin at left and at its own column. */
INLINE float spread_pixel(const float *above, const uint8_t *kept_above, const float *row, const uint8_t *kept,
                          int64_t left, int64_t x) {
    const float first = kept_above[left] == 3 ? above[left] : 0.0f, second = kept_above[x] == 2 ? above[x] : 0.0f;
    const float third = kept[left] == 1 ? row[left] : 0.0f, fourth = kept[x] == 0 ? row[x] : 0.0f;
    return ((first + second) + third) + fourth;
}

FOR_EACH_PROCESSOR static void spread_channel(void *data, size_t task) {
    const pooling *job = data;
    const int64_t height = job->height, width = job->width, pixels = height * width;
    const float *channel = job->from + (int64_t)task * pixels;
    const uint8_t *kept = job->kept + (int64_t)task * pixels;
    for (int64_t y = 0; y < height; y++) {
        const int64_t own = y * width, above = wrapped(y - 1, height) * width;
        const float *row = channel + own, *row_above = channel + above;
        const uint8_t *kept_row = kept + own, *kept_above = kept + above;
        float *restrict to = job->to + (int64_t)task * pixels + own;
        to[0] = spread_pixel(row_above, kept_above, row, kept_row, width - 1, 0);
        NO_ALIASES
        for (int64_t x = 1; x < width; x++) to[x] = spread_pixel(row_above, kept_above, row, kept_row, x - 1, x);
    }
}

void aps_pool(const float *values, int64_t channels, int64_t height, int64_t width, float *pooled, uint8_t *kept,
              aps_parallel_for parallel_for, void *runner) {
    pooling job = {values, NULL, pooled, kept, height, width};
    parallel_for(runner, pool_channel, (size_t)channels, &job);
}

void aps_spread(const float *gradient, const uint8_t *kept, int64_t channels, int64_t height, int64_t width,
                float *spread, aps_parallel_for parallel_for, void *runner) {
    pooling job = {gradient, kept, spread, NULL, height, width};
    parallel_for(runner, spread_channel, (size_t)channels, &job);
}
