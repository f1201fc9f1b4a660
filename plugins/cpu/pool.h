/* The 2 x 2 maximum pool of stride 1 on periodic maps of float32, of which there are `channels` (N * C) of H x W. */
#ifndef APS_POOL_H
#define APS_POOL_H

#include <stdint.h>

#include "polyphase.h"

/* Writes the maximum of each pixel, its right, its lower and its lower right neighbour, and which of them it was, 0 to 3,
 * the first among equals. */
void aps_pool(const float *values, int64_t channels, int64_t height, int64_t width, float *pooled, uint8_t *kept,
              aps_parallel_for parallel_for, void *runner);

/* Writes the gradient of the values, given that of the maxima. */
void aps_spread(const float *gradient, const uint8_t *kept, int64_t channels, int64_t height, int64_t width,
                float *spread, aps_parallel_for parallel_for, void *runner);

#endif
