#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
#include "simd.h"

#include <float.h>
#include <math.h>

#include "pilotlight.h"

void pl_quantise_row(const float *x, int size, pl_quantised *to, int row)
{
    for (int digit = 0; digit < to->digits; digit++) {
        int index = row * to->digits + digit;
        int8_t *value = to->value + (size_t)index * to->stride;
        const int8_t *coarse = value - to->stride; /* what the digit before took; read for digits after the first */
        __m512 coarse_scale = _mm512_set1_ps(digit ? to->scale[index - 1] : 0.0f);
        __m512 largest = _mm512_setzero_ps();
        for (int i = 0; i < size; i += PL_LANES) {
            __m512 v = _mm512_maskz_loadu_ps(pl_tail(i, size), x + i);
            if (digit)
                v = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((void *)(coarse + i)))),
                                     coarse_scale, v);
            largest = _mm512_max_ps(largest, _mm512_abs_ps(v));
        }
        float scale = fmaxf(_mm512_reduce_max_ps(largest) / 127.0f, FLT_MIN);
        __m512 inverse = _mm512_set1_ps(1.0f / scale);
        __m512i sum = _mm512_setzero_si512();
        for (int i = 0; i < size; i += PL_LANES) {
            __m512 v = _mm512_maskz_loadu_ps(pl_tail(i, size), x + i);
            if (digit)
                v = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((void *)(coarse + i)))),
                                     coarse_scale, v);
            __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(v, inverse));
            sum = _mm512_add_epi32(sum, rounded);
            _mm_storeu_si128((void *)(value + i), _mm512_cvtsepi32_epi8(rounded));
        }
        to->scale[index] = scale;
        to->sum[index] = 128 * _mm512_reduce_add_epi32(sum);
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
