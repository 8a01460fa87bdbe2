#include <float.h>
#include <math.h>

#include "kernels.h"

/* The vector at `i` of `x`, less what the digit before took of it, where there is one. */
PL_INLINE pl_floats left_over(const float *x, int i, int size, const pl_value *coarse, float coarse_scale)
{
    pl_floats v = f_load_lanes(pl_tail(i, size), x + i);
    if (coarse == NULL)
        return v;
    pl_floats taken = f_of_ints(i_load_values(coarse + i));
    return f_fnmadd(taken, f_set1(coarse_scale), v);
}

/* The scale that fits the largest magnitude into a byte. Not a number if one of them is not: that must come out at the
 * end, and neither the maximum nor an int8 would show it. */
PL_INLINE float fitting_scale(const float *x, int size, const pl_value *coarse, float coarse_scale)
{
    pl_floats largest = f_zero();
    pl_bits is_nan = 0;
    for (int i = 0; i < size; i += PL_LANES) {
        pl_floats v = left_over(x, i, size, coarse, coarse_scale);
        is_nan |= f_unordered(v);
        largest = f_max(largest, f_abs(v));
    }
    return is_nan ? NAN : fmaxf(f_reduce_max(largest) / 127.0f, FLT_MIN);
}

void pl_quantise_row(const float *x, int size, pl_quantised *to, int row)
{
    for (int digit = 0; digit < to->digits; digit++) {
        int index = row * to->digits + digit;
        pl_value *value = to->value + (size_t)index * to->stride;
        const pl_value *coarse = digit ? value - to->stride : NULL;
        float coarse_scale = digit ? to->scale[index - 1] : 0.0f;
        float scale = fitting_scale(x, size, coarse, coarse_scale);
        pl_floats inverse = f_set1(1.0f / scale);
        pl_ints sum = i_zero();
        for (int i = 0; i < size; i += PL_LANES) {
            pl_floats v = left_over(x, i, size, coarse, coarse_scale);
            pl_ints rounded = i_of_floats(f_mul(v, inverse));
            sum = i_add(sum, rounded);
            i_store_values(value + i, rounded);
        }
        to->scale[index] = scale;
        to->sum[index] = isnan(scale) ? 0 : 128 * i_reduce_add(sum); /* NaN's integers would overflow */
    }
}

void pl_rms_norm(const float *x, const float *weight, int size, float eps, float *out)
{
    pl_floats squares = f_zero();
    for (int i = 0; i < size; i += PL_LANES) {
        pl_floats v = f_load_lanes(pl_tail(i, size), x + i);
        squares = f_fmadd(v, v, squares);
    }
    pl_floats factor = f_set1(1.0f / sqrtf(f_reduce_add(squares) / (float)size + eps));
    for (int i = 0; i < size; i += PL_LANES) {
        pl_lanes lanes = pl_tail(i, size);
        pl_floats v = f_mul(f_load_lanes(lanes, x + i), factor);
        if (weight != NULL)
            v = f_mul(v, f_load_lanes(lanes, weight + i));
        f_store_lanes(out + i, lanes, v);
    }
}

void pl_rotate(float *head, const float *cos, const float *sin, int head_dim)
{
    float *low = head, *high = head + head_dim / 2;
    for (int i = 0; i < head_dim / 2; i++) {
        float a = low[i], b = high[i];
        low[i] = a * cos[i] - b * sin[i];
        high[i] = b * cos[i] + a * sin[i];
    }
}

void pl_mask_rows(float *logits, int vocab, const int32_t *rows, int num_rows, const uint32_t *masks)
{
    int words = (vocab + 31) / 32;
    for (int n = 0; n < num_rows; n++) {
        float *row = logits + (size_t)rows[n] * vocab;
        const uint32_t *mask = masks + (size_t)n * words;
        for (int i = 0; i < vocab; i += PL_LANES) {
            pl_bits banned = ~(pl_bits)(mask[i / 32] >> i % 32) & pl_tail_bits(i, vocab);
            f_store_bits(row + i, banned, f_set1(-INFINITY));
        }
    }
}
