/* Vector functions that several files need. Include it behind the target pragma. */
#ifndef PILOTLIGHT_SIMD_H
#define PILOTLIGHT_SIMD_H

#include <immintrin.h>

#define PL_INLINE static inline __attribute__((always_inline))

/* e^x for x in [-87, 88]; arguments outside are taken as the border. NaN stays NaN: of two
 * operands min and max return the second if one is NaN. Relative error below 2e-7 (Cephes' polynomial). */
PL_INLINE __m512 pl_exp(__m512 x)
{
    x = _mm512_min_ps(_mm512_set1_ps(88.0f), _mm512_max_ps(_mm512_set1_ps(-87.0f), x));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), _MM_FROUND_TO_NEAREST_INT);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(p, n);
}

/* Lanes of the vector at `index` that lie below `size`. */
PL_INLINE __mmask16 pl_tail(int index, int size)
{
    return size - index >= 16 ? 0xffff : (__mmask16)((1u << (size - index)) - 1);
}

#endif
