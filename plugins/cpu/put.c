/* The gradient of a kept component with respect to the map: the component put back on its grid, and the transposed blur.
 *
 * Only every s-th row and column of what is put back is not zero, so the pixels of a map fall into s*s phases by their row
 * and column modulo s, and each phase is a small dense correlation of the component's gradient: of a 3 x 3 filter and s = 2
 * the four phases have 1, 2, 2 and 4 taps, where the transposed blur of the whole map has 9 for every pixel. Every pixel is
 * written once, by one task, as a sum in one order.
 */
#include <string.h>

#include "polyphase.h"
#include "vectors.h"

enum {
    /* Columns of the component that are put back at a time, and values of a phase beside each other on the stack. */
    COLUMNS = 128,
    SPAN = 1024,
    /* How far a tap reaches to one side on the component's grid: (7 - 1) / 2 pixels of the map, by strides of 2 or more. */
    REACH = 2,
    /* Taps of a phase along one axis: every other one of 7 at most. */
    MOST_TAPS = (APS_LARGEST_FILTER + 1) / 2,
    /* The values of a band, continued to all sides. */
    CONTINUED = SPAN + 2 * REACH * (COLUMNS + 2 * REACH),
};

typedef struct {
    const aps_map *map;
    const float *taken;
    const int64_t *index;
    float *put;
} putting;

/* What is the same for every pixel of one phase of an axis: the taps that meet the grid are last_tap, last_tap - s, ...,
 * from the lowest position of the component on, which stands `lowest` beside the pixel's own. */
typedef struct {
    int64_t num_taps, lowest, last_tap;
} phase_of_axis;

/* The tap c of output position s*j + offset reads position s*j + offset - before + c; so position s*u + phase is read
 * by the taps c = phase + before - offset - s*(j - u). */
static phase_of_axis phase_of(int64_t phase, int64_t offset, int64_t f, int64_t s) {
    const int64_t shift = phase + (f - 1) / 2 - offset, first_tap = ((shift % s) + s) % s;
    if (first_tap >= f) return (phase_of_axis){0};
    const int64_t more = (f - 1 - first_tap) / s;
    return (phase_of_axis){more + 1, (shift - first_tap) / s - more, first_tap + more * s};
}

/* A part of a component: `count` rows from `first_row`, `width` columns from `first_column`; as they stand in `values`, each
 * row continued by `left` values and by enough at its right end to make it `pitch` long, with `above` rows before. */
typedef struct {
    int64_t first_row, count, first_column, width;
    int64_t above, left, pitch;
    float values[CONTINUED];
} band;

static void copy_band(const float *taken, int64_t height, int64_t width, int64_t below, int64_t right, band *b) {
    const int64_t inside = smaller(b->width + right, width - b->first_column);
    for (int64_t i = -b->above; i < b->count + below; i++) {
        const float *row = taken + wrapped(b->first_row + i, height) * width;
        float *to = b->values + (i + b->above) * b->pitch;
        for (int64_t c = -b->left; c < 0; c++) to[b->left + c] = row[wrapped(b->first_column + c, width)];
        memcpy(to + b->left, row + b->first_column, (size_t)inside * sizeof(float));
        for (int64_t c = inside; c < b->width + right; c++) to[b->left + c] = row[b->first_column + c - width];
    }
}

/* Runs a statement with a number of taps as the constant `name`, so that they are unrolled. */
#define WITH_TAPS(count, name, statement)                     \
    switch (count) {                                          \
        case 1: { enum { name = 1 }; statement; break; }      \
        case 2: { enum { name = 2 }; statement; break; }      \
        case 3: { enum { name = 3 }; statement; break; }      \
        default: { enum { name = 4 }; statement; break; }     \
    }
_Static_assert(MOST_TAPS == 4, "WITH_TAPS knows every number of taps");

/* Writes the values of one phase for every pixel of a band, row v of it from out[v * pitch] on. */
INLINE void one_phase(const band *b, const float *filter, int64_t f, int64_t s, phase_of_axis vertical,
                      phase_of_axis horizontal, float *restrict out) {
    const int64_t count = (b->count - 1) * b->pitch + b->width;
    if (vertical.num_taps == 0 || horizontal.num_taps == 0) {
        memset(out, 0, (size_t)count * sizeof(float));
        return;
    }
    const float *rows[MOST_TAPS];
    float taps[MOST_TAPS * MOST_TAPS];
    for (int64_t r = 0; r < vertical.num_taps; r++) {
        const float *of_row = filter + (vertical.last_tap - r * s) * f;
        rows[r] = b->values + (b->above + vertical.lowest + r) * b->pitch + b->left + horizontal.lowest;
        for (int64_t c = 0; c < horizontal.num_taps; c++)
            taps[r * horizontal.num_taps + c] = of_row[horizontal.last_tap - c * s];
    }
    WITH_TAPS(vertical.num_taps, down,
              WITH_TAPS(horizontal.num_taps, across, correlated_span(rows, taps, down, across, count, out)))
}

/* Writes a row of the map: its pixels belong to the phases in turn. */
INLINE void interleaved(const float (*restrict phases)[SPAN], int64_t from, int64_t count, const int64_t s,
                        float *restrict to) {
    NO_ALIASES
    for (int64_t u = 0; u < count; u++)
        for (int64_t p = 0; p < s; p++) to[u * s + p] = phases[p][from + u];
}

/* Writes the s rows of the map that belong to each row of a band. */
INLINE void put_band(const band *b, const float *filter, int64_t f, const int64_t s, int64_t dy, int64_t dx,
                     int64_t width, float *restrict channel) {
    float phases[APS_LARGEST_STRIDE][SPAN];
    for (int64_t q = 0; q < s; q++) {
        const phase_of_axis vertical = phase_of(q, dy, f, s);
        for (int64_t p = 0; p < s; p++) one_phase(b, filter, f, s, vertical, phase_of(p, dx, f, s), phases[p]);
        for (int64_t v = 0; v < b->count; v++) {
            float *row = channel + ((b->first_row + v) * s + q) * width + b->first_column * s;
            interleaved(phases, v * b->pitch, b->width, s, row);
        }
    }
}

/* Writes one channel of one image, blurred. */
INLINE void put_blurred(const aps_map *m, const float *taken, const float *filter, int64_t dy, int64_t dx,
                        float *restrict channel) {
    const int64_t f = m->filter_size, s = m->stride, height = m->height / s, width = m->width / s;
    const int64_t before = (f - 1) / 2, after = f - 1 - before;
    const int64_t below = (before + s - 1) / s, above = (after + s - 1) / s;
    band b = {.above = above, .left = above};
    for (int64_t x = 0; x < width; x += COLUMNS) {
        b.first_column = x;
        b.width = smaller(COLUMNS, width - x);
        b.pitch = b.left + b.width + below;
        const int64_t most = SPAN / b.pitch;
        for (int64_t y = 0; y < height; y += most) {
            b.first_row = y;
            b.count = smaller(most, height - y);
            copy_band(taken, height, width, below, below, &b);
            if (s == 2)
                put_band(&b, filter, f, 2, dy, dx, m->width, channel);
            else
                put_band(&b, filter, f, s, dy, dx, m->width, channel);
        }
    }
}

/* Writes one channel of one image, where nothing is blurred. */
INLINE void put_plain(const aps_map *m, const float *taken, int64_t dy, int64_t dx, float *restrict channel) {
    const int64_t s = m->stride, width = m->width / s;
    for (int64_t y = 0; y < m->height; y++) {
        float *row = channel + y * m->width;
        memset(row, 0, (size_t)m->width * sizeof(float));
        if (y % s != dy) continue;
        for (int64_t u = 0; u < width; u++) row[u * s + dx] = taken[y / s * width + u];
    }
}

FOR_EACH_PROCESSOR static void put_channel(void *data, size_t task) {
    const putting *job = data;
    const aps_map *m = job->map;
    const int64_t s = m->stride, f = m->filter_size, pixels = m->height * m->width;
    const int64_t index = job->index[(int64_t)task / m->channels], c = (int64_t)task % m->channels;
    const float *taken = job->taken + (int64_t)task * (pixels / (s * s));
    float *channel = job->put + (int64_t)task * pixels;
    if (f == 1)
        put_plain(m, taken, index % s, index / s, channel);
    else
        put_blurred(m, taken, m->filter + c * f * f, index % s, index / s, channel);
}

void aps_put(const aps_map *m, const float *taken, const int64_t *index, float *put, aps_parallel_for parallel_for,
             void *runner) {
    putting job = {m, taken, index, put};
    parallel_for(runner, put_channel, (size_t)(m->batch * m->channels), &job);
}
