/* All that is written in the vectors of simd.h, compiled to AVX2. The compiler is told so before it reads a line. */
#pragma GCC target("avx2,fma,f16c")
#define PL_ISA avx2
#define PL_SIMD "simd_avx2.h"

#include "attention.c"
#include "decoder.c"
#include "matmul.c"
#include "rows.c"
