/* The 16 lanes of simd.h as one register of AVX-512, integer products by VNNI. Macros, so that each stands for its
 * instruction and nothing else. */
#ifndef PILOTLIGHT_SIMD_AVX512_H
#define PILOTLIGHT_SIMD_AVX512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define PL_TILE_ROWS 6
#define PL_TILE_BLOCKS 4 /* 6 x 4 sums, 4 weights and a broadcast fill the 32 registers */
#define PL_NARROW_ROWS 2
#define PL_LONE_ROW_SUMS 4
#define PL_SCORE_VECTORS 2
#define PL_VALUE_VECTORS 4

typedef __m512 pl_floats;
typedef __m512i pl_ints;
typedef __mmask16 pl_mask;
typedef __mmask16 pl_lanes;
typedef __mmask16 pl_bits;
typedef __m512i pl_weights;
typedef __m512i pl_inputs;
typedef int8_t pl_value;

#define f_zero _mm512_setzero_ps
#define f_set1 _mm512_set1_ps
#define f_load _mm512_loadu_ps
#define f_store _mm512_storeu_ps
#define f_load_lanes _mm512_maskz_loadu_ps
#define f_store_lanes _mm512_mask_storeu_ps
#define f_store_bits _mm512_mask_storeu_ps
#define f_load_halves(from) _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(from)))
#define f_load_halves_lanes(lanes, from) _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, from))
#define f_store_halves(to, v) _mm256_storeu_si256((void *)(to), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT))
#define f_add _mm512_add_ps
#define f_sub _mm512_sub_ps
#define f_mul _mm512_mul_ps
#define f_div _mm512_div_ps
#define f_min _mm512_min_ps
#define f_max _mm512_max_ps
#define f_abs _mm512_abs_ps
#define f_fmadd _mm512_fmadd_ps
#define f_fnmadd _mm512_fnmadd_ps
#define f_round(v) _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT)
#define f_scale _mm512_scalef_ps
#define f_max_where(v, mask, w) _mm512_mask_max_ps(v, mask, v, w)
#define f_where _mm512_maskz_mov_ps
#define f_unordered(v) _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q)
#define f_reduce_add _mm512_reduce_add_ps
#define f_reduce_max _mm512_reduce_max_ps
#define f_first _mm512_cvtss_f32
#define f_of_ints _mm512_cvtepi32_ps

#define i_zero _mm512_setzero_si512
#define i_set1 _mm512_set1_epi32
#define i_counting() _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
#define i_add _mm512_add_epi32
#define i_sub _mm512_sub_epi32
#define i_reduce_add _mm512_reduce_add_epi32
#define i_of_floats _mm512_cvtps_epi32
#define i_at_least _mm512_cmpge_epi32_mask
#define i_less _mm512_cmplt_epi32_mask
#define m_and(a, b) ((a) & (b))

#define i_load_values(from) _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(from)))
#define i_store_values(to, v) _mm_storeu_si128((void *)(to), _mm512_cvtsepi32_epi8(v))
#define w_load _mm512_loadu_si512
#define i_dot _mm512_dpbusd_epi32 /* 64 products, four of them summed into each lane */
#define i_sum_of_parts(q) i_add(i_add(q[0], q[1]), i_add(q[2], q[3]))

PL_INLINE __m512i x_load(const int8_t *values)
{
    int32_t four;
    memcpy(&four, values, sizeof four);
    return _mm512_set1_epi32(four);
}

PL_INLINE __mmask16 pl_tail(int index, int size)
{
    return size - index >= 16 ? 0xffff : (__mmask16)((1u << (size - index)) - 1);
}

#define pl_tail_bits pl_tail

#endif
