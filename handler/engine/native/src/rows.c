#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
#include "simd.h"

#include <float.h>
#include <math.h>

#include "pilotlight.h"

/* The vector at `i` of `x`, less what the digit before took of it, where there is one. */
PL_INLINE __m512 left_over(const float *x, int i, int size, const int8_t *coarse, float coarse_scale)
{
    __m512 v = _mm512_maskz_loadu_ps(pl_tail(i, size), x + i);
    if (coarse == NULL)
        return v;
    __m512 taken = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(coarse + i))));
    return _mm512_fnmadd_ps(taken, _mm512_set1_ps(coarse_scale), v);
}

/* The scale that fits the largest magnitude into a byte. Not a number if one of them is not: that must come out at the
 * end, and neither the maximum nor an int8 would show it. */
PL_INLINE float fitting_scale(const float *x, int size, const int8_t *coarse, float coarse_scale)
{
    __m512 largest = _mm512_setzero_ps();
    __mmask16 is_nan = 0;
    for (int i = 0; i < size; i += PL_LANES) {
        __m512 v = left_over(x, i, size, coarse, coarse_scale);
        is_nan |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
        largest = _mm512_max_ps(largest, _mm512_abs_ps(v));
    }
    return is_nan ? NAN : fmaxf(_mm512_reduce_max_ps(largest) / 127.0f, FLT_MIN);
}

void pl_quantise_row(const float *x, int size, pl_quantised *to, int row)
{
    for (int digit = 0; digit < to->digits; digit++) {
        int index = row * to->digits + digit;
        int8_t *value = to->value + (size_t)index * to->stride;
        const int8_t *coarse = digit ? value - to->stride : NULL;
        float coarse_scale = digit ? to->scale[index - 1] : 0.0f;
        float scale = fitting_scale(x, size, coarse, coarse_scale);
        __m512 inverse = _mm512_set1_ps(1.0f / scale);
        __m512i sum = _mm512_setzero_si512();
        for (int i = 0; i < size; i += PL_LANES) {
            __m512 v = left_over(x, i, size, coarse, coarse_scale);
            __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(v, inverse));
            sum = _mm512_add_epi32(sum, rounded);
            _mm_storeu_si128((void *)(value + i), _mm512_cvtsepi32_epi8(rounded));
        }
        to->scale[index] = scale;
        to->sum[index] = isnan(scale) ? 0 : 128 * _mm512_reduce_add_epi32(sum); /* NaN's integers would overflow */
    }
}

void pl_rms_norm(const float *x, const float *weight, int size, float eps, float *out)
{
    __m512 squares = _mm512_setzero_ps();
    for (int i = 0; i < size; i += PL_LANES) {
        __m512 v = _mm512_maskz_loadu_ps(pl_tail(i, size), x + i);
        squares = _mm512_fmadd_ps(v, v, squares);
    }
    __m512 factor = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(squares) / (float)size + eps));
    for (int i = 0; i < size; i += PL_LANES) {
        __mmask16 lanes = pl_tail(i, size);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), factor);
        if (weight != NULL)
            v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(lanes, weight + i));
        _mm512_mask_storeu_ps(out + i, lanes, v);
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
            __mmask16 banned = ~(__mmask16)(mask[i / 32] >> i % 32) & pl_tail(i, vocab);
            _mm512_mask_storeu_ps(row + i, banned, _mm512_set1_ps(-INFINITY));
        }
    }
}
