#include "polyphase.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "vectors.h"

enum {
    /* Few enough that a task's energies stay in the first-level cache, and that there are tasks for every thread. */
    ROWS_PER_TASK = 8,
    /* Columns blurred at a time, on the stack: the least common multiple of all strides. */
    TILE = 840,
    /* Up to here a map is narrow: several rows are blurred as one span. Of wider ones (measured: from 56) each row is long
     * enough for the vectors, and the copy costs more than it saves. */
    NARROW = 48,
    BAND = ROWS_PER_TASK * (NARROW + APS_LARGEST_FILTER - 1),
};
_Static_assert(BAND <= TILE, "a band is blurred into the space of a tile");
static const float QUANTISED_MAX = 0x1p30f;
static const float SCALE_FLOOR = 0x1p-90f; /* 2**30 over a smaller peak would be infinite */

int aps_is_fast(void) {
#if HAS_CLONES
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#elif defined(__FMA__) || defined(__aarch64__)
    return 1;
#else
    return 0; /* fmaf would be a call of the library for every product */
#endif
}

const char *aps_why_invalid(const aps_map *m) {
    const int64_t f = m->filter_size, s = m->stride;
    if (m->batch < 0 || m->channels < 1 || m->height < 1 || m->width < 1) return "the map is empty";
    if (s < 2 || s > APS_LARGEST_STRIDE) return "the stride is not 2 to 8";
    if (m->height % s || m->width % s) return "height and width are no multiples of the stride";
    if (f < 1 || f > APS_LARGEST_FILTER) return "the filter is not of size 1 to 7";
    if (f > m->height || f > m->width) return "the filter is larger than the map";
    return NULL;
}

/* ---- the blur ---- */

/* Value x of a row of one blurred channel near its left or right border, where columns wrap. */
INLINE float border_value(const float *const *rows, const float *taps, const int64_t f, int64_t width, int64_t x) {
    const int64_t before = (f - 1) / 2;
    float sum = 0.0f;
    for (int64_t r = 0; r < f; r++)
        for (int64_t c = 0; c < f; c++) sum = fmaf(taps[r * f + c], rows[r][wrapped(x - before + c, width)], sum);
    return sum;
}

/* Writes columns first .. first+count-1 of a row of one blurred channel. */
INLINE void blurred_tile(const float *channel, const float *taps, const int64_t f, int64_t height, int64_t width,
                         int64_t row, int64_t first, int64_t count, float *restrict out) {
    const int64_t before = (f - 1) / 2, after = f - 1 - before, last = first + count;
    /* Columns whose taps do not wrap; none in a map hardly wider than the filter. */
    const int64_t inner_first = smaller(larger(first, before), last);
    const int64_t inner_last = larger(smaller(last, width - after), inner_first);
    const float *rows[APS_LARGEST_FILTER], *inner[APS_LARGEST_FILTER];
    for (int64_t r = 0; r < f; r++) {
        rows[r] = channel + wrapped(row + r - before, height) * width;
        inner[r] = rows[r] + inner_first - before;
    }
    for (int64_t x = first; x < inner_first; x++) out[x - first] = border_value(rows, taps, f, width, x);
    correlated_span(inner, taps, f, f, inner_last - inner_first, out + inner_first - first);
    for (int64_t x = inner_last; x < last; x++) out[x - first] = border_value(rows, taps, f, width, x);
}

/* Copies rows of a channel one behind the other, each continued to both sides as far as the filter reaches. */
INLINE void copy_continued(const float *channel, const int64_t f, int64_t height, int64_t width, int64_t first,
                           int64_t step, int64_t count, float *restrict to) {
    const int64_t before = (f - 1) / 2, after = f - 1 - before;
    for (int64_t i = 0; i < count; i++) {
        const float *row = channel + wrapped(first + i * step, height) * width;
        for (int64_t c = 0; c < before; c++) *to++ = row[width - before + c];
        memcpy(to, row, (size_t)width * sizeof(float));
        to += width;
        for (int64_t c = 0; c < after; c++) *to++ = row[c];
    }
}

/* Writes `count` blurred rows of a channel, every step-th from `first` on: row i begins at out[i * (width + f-1)]. What
 * lies between them is of no use. Together they are one long span, where rows of a narrow map would mostly be borders and
 * rests of vectors. */
INLINE void blurred_band(const float *channel, const float *taps, const int64_t f, int64_t height, int64_t width,
                         int64_t first, int64_t step, int64_t count, float *restrict out) {
    const int64_t before = (f - 1) / 2, pitch = width + f - 1;
    float continued[APS_LARGEST_FILTER * BAND];
    const float *rows[APS_LARGEST_FILTER];
    if (step == 1) { /* the rows above and below each are those of its neighbours */
        copy_continued(channel, f, height, width, first - before, 1, count + f - 1, continued);
        for (int64_t r = 0; r < f; r++) rows[r] = continued + r * pitch;
    } else {
        for (int64_t r = 0; r < f; r++) {
            copy_continued(channel, f, height, width, first - before + r, step, count, continued + r * BAND);
            rows[r] = continued + r * BAND;
        }
    }
    correlated_span(rows, taps, f, f, count * pitch - (f - 1), out);
}

/* Runs a statement with the filter's size as the constant `f`, so that its taps are unrolled. */
#define WITH_FILTER_OF(size, statement)                                       \
    switch (size) {                                                           \
        case 2: { enum { f = 2 }; statement; break; }                         \
        case 3: { enum { f = 3 }; statement; break; }                         \
        case 4: { enum { f = 4 }; statement; break; }                         \
        case 5: { enum { f = 5 }; statement; break; }                         \
        case 6: { enum { f = 6 }; statement; break; }                         \
        default: { enum { f = 7 }; statement; break; }                        \
    }

/* Points to columns first .. first+count-1 of a row of one channel, in place where nothing is blurred, else in `space`. */
INLINE const float *tile_of(const aps_map *m, const float *channel, const float *filter, int64_t row, int64_t first,
                            int64_t count, float *space) {
    const int64_t height = m->height, width = m->width;
    if (m->filter_size == 1) return channel + row * width + first;
    WITH_FILTER_OF(m->filter_size, blurred_tile(channel, filter, f, height, width, row, first, count, space))
    return space;
}

static int is_narrow(const aps_map *m) { return m->filter_size > 1 && m->width <= NARROW; }

/* Blurs `count` rows of a narrow map into `space` and returns how far apart they are. */
INLINE int64_t band_of(const aps_map *m, const float *channel, const float *filter, int64_t first, int64_t step,
                       int64_t count, float *space) {
    const int64_t height = m->height, width = m->width;
    WITH_FILTER_OF(m->filter_size, blurred_band(channel, filter, f, height, width, first, step, count, space))
    return width + m->filter_size - 1;
}

static const float *filter_of(const aps_map *m, int64_t channel) {
    return m->filter_size == 1 ? NULL : m->filter + channel * m->filter_size * m->filter_size;
}

/* ---- choosing ---- */

typedef struct {
    const aps_map *map;
    enum aps_criterion criterion;
    int64_t *index;
    float *energies; /* (N, H, W) */
    int64_t tasks_per_image;
} choosing;

static int is_squared(enum aps_criterion criterion) { return criterion == APS_L2 || criterion == APS_L2_MIN; }
static int keeps_smallest(enum aps_criterion criterion) { return criterion == APS_L2_MIN || criterion == APS_L1_MIN; }

size_t aps_scratch_bytes(const aps_map *m) { return (size_t)(m->batch * m->height * m->width) * sizeof(float); }

INLINE void add_energies(const choosing *job, const float *values, int64_t count, float *restrict sums) {
    if (is_squared(job->criterion))
        for (int64_t i = 0; i < count; i++) sums[i] = fmaf(values[i], values[i], sums[i]);
    else
        for (int64_t i = 0; i < count; i++) sums[i] += fabsf(values[i]);
}

/* Writes the energies of a few rows of an image: the sum over channels, in their order, of the squares or magnitudes. */
FOR_EACH_PROCESSOR static void energies_of_rows(void *data, size_t task) {
    const choosing *job = data;
    const aps_map *m = job->map;
    const int64_t n = (int64_t)task / job->tasks_per_image, width = m->width, pixels = m->height * width;
    const int64_t first = (int64_t)task % job->tasks_per_image * ROWS_PER_TASK;
    const int64_t last = smaller(first + ROWS_PER_TASK, m->height);
    const float *image = m->values + n * m->channels * pixels;
    float *energies = job->energies + n * pixels;
    float space[TILE];
    if (is_narrow(m)) {
        float sums[BAND] = {0};
        int64_t pitch = 0;
        for (int64_t c = 0; c < m->channels; c++) {
            pitch = band_of(m, image + c * pixels, filter_of(m, c), first, 1, last - first, space);
            add_energies(job, space, (last - first - 1) * pitch + width, sums);
        }
        for (int64_t row = first; row < last; row++)
            memcpy(energies + row * width, sums + (row - first) * pitch, (size_t)width * sizeof(float));
        return;
    }
    memset(energies + first * width, 0, (size_t)((last - first) * width) * sizeof(float));
    for (int64_t c = 0; c < m->channels; c++) {
        const float *channel = image + c * pixels, *filter = filter_of(m, c);
        for (int64_t row = first; row < last; row++) {
            for (int64_t x = 0; x < width; x += TILE) {
                const int64_t count = smaller(TILE, width - x);
                const float *values = tile_of(m, channel, filter, row, x, count, space);
                add_energies(job, values, count, energies + row * width + x);
            }
        }
    }
}

/* Adds the energies of a row, as whole numbers up to 2**30, by column modulo the stride. */
INLINE void add_row(const float *energies, int64_t width, const int64_t stride, float scale, int64_t *sums) {
    for (int64_t dx = 0; dx < stride; dx++) {
        int64_t sum = 0;
        for (int64_t x = dx; x < width; x += stride) sum += (int32_t)rintf(energies[x] * scale);
        sums[dx] += sum;
    }
}

/* Chooses for one image. The scale follows its largest energy, and a sum of whole numbers does not depend on their order:
 * the same sums for every shift by a multiple of the stride, permuted ones for every other. */
FOR_EACH_PROCESSOR static void choose_for_image(void *data, size_t n) {
    const choosing *job = data;
    const aps_map *m = job->map;
    const int64_t stride = m->stride, width = m->width, pixels = m->height * width;
    const float *energies = job->energies + (int64_t)n * pixels;
    float peak = 0.0f;
    int is_finite = 1;
    for (int64_t p = 0; p < pixels; p++) {
        is_finite &= energies[p] <= FLT_MAX; /* false for a NaN too */
        peak = energies[p] > peak ? energies[p] : peak;
    }
    job->index[n] = 0;
    if (!is_finite) return;
    const float scale = QUANTISED_MAX / (peak > SCALE_FLOOR ? peak : SCALE_FLOOR);
    int64_t sums[APS_LARGEST_STRIDE * APS_LARGEST_STRIDE] = {0}; /* by dy, then dx */
    for (int64_t row = 0; row < m->height; row++) {
        int64_t *of_row = sums + row % stride * stride;
        if (stride == 2)
            add_row(energies + row * width, width, 2, scale, of_row);
        else
            add_row(energies + row * width, width, stride, scale, of_row);
    }
    int64_t best = 0, best_sum = sums[0];
    for (int64_t k = 1; k < stride * stride; k++) {
        const int64_t sum = sums[k % stride * stride + k / stride];
        /* Strictly better: a tie stays with the lower component. */
        if (keeps_smallest(job->criterion) ? sum < best_sum : sum > best_sum) {
            best = k;
            best_sum = sum;
        }
    }
    job->index[n] = best;
}

void aps_choose(const aps_map *m, enum aps_criterion criterion, int64_t *index, void *scratch,
                aps_parallel_for parallel_for, void *runner) {
    choosing job = {m, criterion, index, scratch, (m->height + ROWS_PER_TASK - 1) / ROWS_PER_TASK};
    parallel_for(runner, energies_of_rows, (size_t)(m->batch * job.tasks_per_image), &job);
    parallel_for(runner, choose_for_image, (size_t)m->batch, &job);
}

/* ---- taking ---- */

typedef struct {
    const aps_map *map;
    const int64_t *index;
    float *taken;
} taking;

INLINE void copy_every(const int64_t stride, const float *restrict from, int64_t count, float *restrict to) {
    if (stride == 2)
        for (int64_t x = 0; x < count; x++) to[x] = from[x * 2];
    else
        for (int64_t x = 0; x < count; x++) to[x] = from[x * stride];
}

/* Writes the kept component of one channel of one image. */
FOR_EACH_PROCESSOR static void take_channel(void *data, size_t task) {
    const taking *job = data;
    const aps_map *m = job->map;
    const int64_t stride = m->stride, height = m->height / stride, width = m->width / stride;
    const int64_t index = job->index[(int64_t)task / m->channels];
    const int64_t dy = index % stride, dx = index / stride;
    const float *channel = m->values + (int64_t)task * m->height * m->width;
    const float *filter = filter_of(m, (int64_t)task % m->channels);
    float *taken = job->taken + (int64_t)task * height * width;
    float space[TILE];
    if (is_narrow(m)) {
        const int64_t most = BAND / (m->width + m->filter_size - 1);
        for (int64_t first = 0; first < height; first += most) {
            const int64_t count = smaller(most, height - first);
            const int64_t pitch = band_of(m, channel, filter, first * stride + dy, stride, count, space);
            for (int64_t i = 0; i < count; i++)
                copy_every(stride, space + i * pitch + dx, width, taken + (first + i) * width);
        }
        return;
    }
    for (int64_t row = 0; row < height; row++) {
        for (int64_t x = 0; x < m->width; x += TILE) {
            const int64_t count = smaller(TILE, m->width - x);
            const float *from = tile_of(m, channel, filter, row * stride + dy, x, count, space) + dx;
            copy_every(stride, from, count / stride, taken + row * width + x / stride);
        }
    }
}

void aps_take(const aps_map *m, const int64_t *index, float *taken, aps_parallel_for parallel_for, void *runner) {
    taking job = {m, index, taken};
    parallel_for(runner, take_channel, (size_t)(m->batch * m->channels), &job);
}
