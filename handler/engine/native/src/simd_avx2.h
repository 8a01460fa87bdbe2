/* The 16 lanes of simd.h as two registers of AVX2, with FMA and F16C. */
#ifndef PILOTLIGHT_SIMD_AVX2_H
#define PILOTLIGHT_SIMD_AVX2_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* Of 16 registers 4 x 2 hold sums, 4 weights, 2 activations and 2 products. */
#define PL_TILE_ROWS 4
#define PL_TILE_BLOCKS 2 /* gate and up; one after the other, while the first level of the cache still has them */
#define PL_NARROW_ROWS 4
#define PL_LONE_ROW_SUMS 1
#define PL_SCORE_VECTORS 1
#define PL_VALUE_VECTORS 1

typedef struct { __m256 low, high; } pl_floats;
typedef struct { __m256i low, high; } pl_ints;
typedef pl_ints pl_mask;
typedef int pl_lanes;
typedef uint16_t pl_bits;
typedef int16_t pl_value;

/* Bytes widened to 16 bits: of every four the first and third are even, the others odd. Two products of 16 bits summed in
 * 32 cannot overflow, whatever the bytes: vpmaddubsw would do twice as many at once, but saturates at 16. */
typedef struct { pl_ints even, odd; } pl_weights;
typedef struct { __m256i even, odd; } pl_inputs;

#define PL_LANEWISE(type, name, instruction)                                                                            \
    PL_INLINE type name(type a, type b) { return (type){instruction(a.low, b.low), instruction(a.high, b.high)}; }

PL_LANEWISE(pl_floats, f_add, _mm256_add_ps)
PL_LANEWISE(pl_floats, f_sub, _mm256_sub_ps)
PL_LANEWISE(pl_floats, f_mul, _mm256_mul_ps)
PL_LANEWISE(pl_floats, f_div, _mm256_div_ps)
PL_LANEWISE(pl_floats, f_min, _mm256_min_ps)
PL_LANEWISE(pl_floats, f_max, _mm256_max_ps)
PL_LANEWISE(pl_ints, i_add, _mm256_add_epi32)
PL_LANEWISE(pl_ints, i_sub, _mm256_sub_epi32)
PL_LANEWISE(pl_ints, i_greater, _mm256_cmpgt_epi32)
PL_LANEWISE(pl_mask, m_and, _mm256_and_si256)

/* ---- from memory and back ---- */

PL_INLINE pl_floats f_zero(void) { return (pl_floats){_mm256_setzero_ps(), _mm256_setzero_ps()}; }

PL_INLINE pl_floats f_set1(float x) { return (pl_floats){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }

PL_INLINE pl_floats f_load(const float *from) { return (pl_floats){_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }

PL_INLINE void f_store(float *to, pl_floats v)
{
    _mm256_storeu_ps(to, v.low);
    _mm256_storeu_ps(to + 8, v.high);
}

PL_INLINE pl_ints i_zero(void) { return (pl_ints){_mm256_setzero_si256(), _mm256_setzero_si256()}; }

PL_INLINE pl_ints i_set1(int32_t x) { return (pl_ints){_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }

PL_INLINE pl_ints i_counting(void)
{
    return (pl_ints){_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)};
}

PL_INLINE pl_lanes pl_tail(int index, int size) { return size - index >= 16 ? 16 : size - index; }

PL_INLINE pl_bits pl_tail_bits(int index, int size) { return (pl_bits)((1u << pl_tail(index, size)) - 1); }

PL_INLINE pl_mask m_of_lanes(pl_lanes lanes) { return i_greater(i_set1(lanes), i_counting()); }

/* Whole vectors take the short way: a store under a mask is microcode on some of these CPUs. */
PL_INLINE pl_floats f_load_lanes(pl_lanes lanes, const float *from)
{
    if (lanes == 16)
        return f_load(from);
    pl_mask mask = m_of_lanes(lanes);
    return (pl_floats){_mm256_maskload_ps(from, mask.low), _mm256_maskload_ps(from + 8, mask.high)};
}

PL_INLINE void f_store_mask(float *to, pl_mask mask, pl_floats v)
{
    _mm256_maskstore_ps(to, mask.low, v.low);
    _mm256_maskstore_ps(to + 8, mask.high, v.high);
}

PL_INLINE void f_store_lanes(float *to, pl_lanes lanes, pl_floats v)
{
    if (lanes == 16)
        f_store(to, v);
    else
        f_store_mask(to, m_of_lanes(lanes), v);
}

PL_INLINE void f_store_bits(float *to, pl_bits bits, pl_floats v)
{
    if (bits == 0xffff) {
        f_store(to, v);
        return;
    }
    pl_ints all = i_set1(bits);
    pl_ints own = {_mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128),
                   _mm256_setr_epi32(1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15)};
    pl_ints set = m_and(all, own);
    f_store_mask(to, (pl_mask){_mm256_cmpeq_epi32(set.low, own.low), _mm256_cmpeq_epi32(set.high, own.high)}, v);
}

PL_INLINE pl_floats f_load_halves(const uint16_t *from)
{
    return (pl_floats){_mm256_cvtph_ps(_mm_loadu_si128((const void *)from)),
                       _mm256_cvtph_ps(_mm_loadu_si128((const void *)(from + 8)))};
}

PL_INLINE pl_floats f_load_halves_lanes(pl_lanes lanes, const uint16_t *from)
{
    uint16_t halves[16] = {0};
    if (lanes == 16)
        return f_load_halves(from);
    memcpy(halves, from, (size_t)lanes * sizeof *from);
    return f_load_halves(halves);
}

PL_INLINE void f_store_halves(uint16_t *to, pl_floats v)
{
    _mm_storeu_si128((void *)to, _mm256_cvtps_ph(v.low, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((void *)(to + 8), _mm256_cvtps_ph(v.high, _MM_FROUND_TO_NEAREST_INT));
}

/* ---- floats ---- */

PL_INLINE pl_floats f_fmadd(pl_floats a, pl_floats b, pl_floats c)
{
    return (pl_floats){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

PL_INLINE pl_floats f_fnmadd(pl_floats a, pl_floats b, pl_floats c)
{
    return (pl_floats){_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}

PL_INLINE pl_floats f_abs(pl_floats v)
{
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (pl_floats){_mm256_andnot_ps(sign, v.low), _mm256_andnot_ps(sign, v.high)};
}

PL_INLINE pl_floats f_round(pl_floats v)
{
    enum { NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    return (pl_floats){_mm256_round_ps(v.low, NEAREST), _mm256_round_ps(v.high, NEAREST)};
}

PL_INLINE pl_floats f_of_ints(pl_ints v)
{
    return (pl_floats){_mm256_cvtepi32_ps(v.low), _mm256_cvtepi32_ps(v.high)};
}

PL_INLINE pl_ints i_of_floats(pl_floats v)
{
    return (pl_ints){_mm256_cvtps_epi32(v.low), _mm256_cvtps_epi32(v.high)};
}

/* v * 2^n for whole n in [-126, 127], rounded once: 2^n is a normal number then. NaN stays NaN. */
PL_INLINE pl_floats f_scale(pl_floats v, pl_floats n)
{
    pl_ints exponent = i_add(i_of_floats(n), i_set1(127));
    pl_floats power = {_mm256_castsi256_ps(_mm256_slli_epi32(exponent.low, 23)),
                       _mm256_castsi256_ps(_mm256_slli_epi32(exponent.high, 23))};
    return f_mul(v, power);
}

/* `v` where the mask is set, else 0. */
PL_INLINE pl_floats f_where(pl_mask mask, pl_floats v)
{
    return (pl_floats){_mm256_and_ps(_mm256_castsi256_ps(mask.low), v.low),
                       _mm256_and_ps(_mm256_castsi256_ps(mask.high), v.high)};
}

/* The larger of `v` and `w` where the mask is set, else `v`. */
PL_INLINE pl_floats f_max_where(pl_floats v, pl_mask mask, pl_floats w)
{
    pl_floats larger = f_max(v, w);
    return (pl_floats){_mm256_blendv_ps(v.low, larger.low, _mm256_castsi256_ps(mask.low)),
                       _mm256_blendv_ps(v.high, larger.high, _mm256_castsi256_ps(mask.high))};
}

PL_INLINE pl_bits f_unordered(pl_floats v)
{
    return (pl_bits)(_mm256_movemask_ps(_mm256_cmp_ps(v.low, v.low, _CMP_UNORD_Q)) |
                     _mm256_movemask_ps(_mm256_cmp_ps(v.high, v.high, _CMP_UNORD_Q)) << 8);
}

PL_INLINE float f_first(pl_floats v) { return _mm256_cvtss_f32(v.low); }

/* Halves onto each other, the upper one first, until one lane is left: the order of GCC's _mm512_reduce_add_ps. */
PL_INLINE float f_reduce_add(pl_floats v)
{
    __m256 eight = _mm256_add_ps(v.high, v.low);
    __m128 four = _mm_add_ps(_mm256_extractf128_ps(eight, 1), _mm256_castps256_ps128(eight));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(two) + _mm_cvtss_f32(_mm_shuffle_ps(two, two, 1));
}

PL_INLINE float f_reduce_max(pl_floats v)
{
    __m256 eight = _mm256_max_ps(v.high, v.low);
    __m128 four = _mm_max_ps(_mm256_extractf128_ps(eight, 1), _mm256_castps256_ps128(eight));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ps(two, _mm_shuffle_ps(two, two, 1)));
}

/* ---- integers ---- */

PL_INLINE int32_t i_reduce_add(pl_ints v)
{
    __m256i eight = _mm256_add_epi32(v.high, v.low);
    __m128i four = _mm_add_epi32(_mm256_extracti128_si256(eight, 1), _mm256_castsi256_si128(eight));
    __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}

PL_INLINE pl_mask i_less(pl_ints a, pl_ints b) { return i_greater(b, a); }

PL_INLINE pl_mask i_at_least(pl_ints a, pl_ints b)
{
    pl_mask less = i_less(a, b);
    __m256i all = _mm256_set1_epi32(-1);
    return (pl_mask){_mm256_xor_si256(less.low, all), _mm256_xor_si256(less.high, all)};
}

/* ---- products ---- */

/* Of each four values the first and third come before the second and fourth, so that a pair is one word. Anything
 * beyond 8 bits saturates, as where they are stored as bytes. */
PL_INLINE void i_store_values(pl_value *to, pl_ints v)
{
    enum { EVEN_FIRST = 0 | 2 << 2 | 1 << 4 | 3 << 6 };
    __m256i words = _mm256_packs_epi32(_mm256_shuffle_epi32(v.low, EVEN_FIRST), _mm256_shuffle_epi32(v.high, EVEN_FIRST));
    words = _mm256_permute4x64_epi64(words, EVEN_FIRST); /* packing took the lower halves of both before the upper ones */
    words = _mm256_max_epi16(_mm256_min_epi16(words, _mm256_set1_epi16(127)), _mm256_set1_epi16(-128));
    _mm256_storeu_si256((void *)to, words);
}

PL_INLINE pl_ints i_load_values(const pl_value *from)
{
    enum { IN_ORDER = 0 | 2 << 2 | 1 << 4 | 3 << 6 };
    return (pl_ints){_mm256_shuffle_epi32(_mm256_cvtepi16_epi32(_mm_loadu_si128((const void *)from)), IN_ORDER),
                     _mm256_shuffle_epi32(_mm256_cvtepi16_epi32(_mm_loadu_si128((const void *)(from + 8))), IN_ORDER)};
}

PL_INLINE pl_weights w_load(const uint8_t *from)
{
    __m256i low = _mm256_loadu_si256((const void *)from), high = _mm256_loadu_si256((const void *)(from + 32));
    __m256i bytes = _mm256_set1_epi16(0xff);
    return (pl_weights){.even = {_mm256_and_si256(low, bytes), _mm256_and_si256(high, bytes)},
                        .odd = {_mm256_srli_epi16(low, 8), _mm256_srli_epi16(high, 8)}};
}

PL_INLINE pl_inputs x_load(const pl_value *values)
{
    int32_t even, odd;
    memcpy(&even, values, sizeof even);
    memcpy(&odd, values + 2, sizeof odd);
    return (pl_inputs){_mm256_set1_epi32(even), _mm256_set1_epi32(odd)};
}

PL_INLINE pl_ints i_sum_of_parts(const pl_ints *parts) { return parts[0]; }

PL_INLINE pl_ints i_dot(pl_ints sums, pl_weights w, pl_inputs x)
{
    sums.low = _mm256_add_epi32(sums.low, _mm256_madd_epi16(w.even.low, x.even));
    sums.high = _mm256_add_epi32(sums.high, _mm256_madd_epi16(w.even.high, x.even));
    sums.low = _mm256_add_epi32(sums.low, _mm256_madd_epi16(w.odd.low, x.odd));
    sums.high = _mm256_add_epi32(sums.high, _mm256_madd_epi16(w.odd.high, x.odd));
    return sums;
}

#endif
