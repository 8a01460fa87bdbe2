/* The int8 decoder for CPUs with AVX-512 VNNI or AVX2: what Python hands over, and the parts that need no vectors.
 *
 * One call computes a whole step: all layers, in all threads of a team, without the interpreter. Every number of a row
 * is computed by the same instructions in the same order whatever other rows the step has, so a sequence's logits
 * have the same bits alone, in a batch, in a chunk of a prompt and after a prefix hit. All else stands in kernels.h and
 * is compiled once for each set of instructions.
 *
 * Rows are tokens. Matrices are row-major; `T` is the number of rows of the step. */
#ifndef PILOTLIGHT_H
#define PILOTLIGHT_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { PL_BLOCK_TOKENS = 32 };  /* of the KV cache */
enum { PL_LANES = 16 };         /* 32-bit numbers in a vector; output rows in a weight block */

/* ---- team.c: threads that work through phases together ---- */

enum { PL_MAX_ITEMS = (1 << 18) - 1 }; /* of a phase */

typedef struct pl_team pl_team;
/* How many items a phase has; asked once, when all phases before it are done. */
typedef int (*pl_count)(void *argument, int phase);
/* Do one item. `thread` counts from 0 and tells which scratch memory to use. */
typedef void (*pl_work)(void *argument, int phase, int item, int thread);

/* Perhaps smaller than asked for, where the system gives no more threads. NULL when there is no memory. */
pl_team *pl_team_create(int threads);
void pl_team_destroy(pl_team *team);
int pl_team_size(const pl_team *team);
/* Do all items of phases 0 to num_phases - 1, phase after phase, in the caller's thread and the team's own. */
void pl_team_run(pl_team *team, int num_phases, pl_count count, pl_work work, void *argument);

/* ---- a model ---- */

/* `weight` holds blocks of PL_LANES output rows: [block][in / 4][PL_LANES][4] bytes, each weight plus 128. `in` and
 * `out` are padded to multiples of PL_LANES there. `bias` may be NULL. */
typedef struct {
    const uint8_t *weight;
    const float *scale; /* (out,) */
    const float *bias;  /* (out,) */
    int32_t out;
    int32_t in;
} pl_linear;

/* Of one layer, in half precision: keys [block][kv head][head_dim][token], so that a query meets many keys at once;
 * values [block][kv head][token][head_dim]. */
typedef struct {
    uint16_t *keys;
    uint16_t *values;
} pl_cache;

typedef struct {
    pl_linear qkv;
    pl_linear output;
    pl_linear gate_up;
    pl_linear down;
    const float *query_norm; /* (head_dim,) or NULL; then the other is NULL too */
    const float *key_norm;
    pl_cache cache;
    int32_t window;
} pl_layer;

typedef struct {
    int32_t hidden_size;
    int32_t intermediate_size;
    int32_t num_layers;
    int32_t num_heads;
    int32_t num_kv_heads;
    int32_t head_dim;
    int32_t down_digits;
    float rms_norm_eps;
    const uint16_t *embedding; /* (vocab, hidden_size) in half precision, in the basis of the residual stream */
    const float *cos;          /* (positions, head_dim / 2) */
    const float *sin;
    const pl_layer *layers;
    pl_linear head;
} pl_model;

/* ---- a step of it ---- */

/* Consecutive rows of one sequence, at consecutive positions. */
typedef struct {
    int32_t first_row;
    int32_t num_rows;
    int32_t first_position;
    const int32_t *block_table;
} pl_span;

/* `rows` of `spans` cover all tokens in order. `logits` is (num_logit_rows, vocab) for the rows in `logit_rows`. */
typedef struct {
    int32_t num_rows;
    int32_t num_spans;
    int32_t num_logit_rows;
    const int32_t *tokens;
    const pl_span *spans;
    const int32_t *logit_rows;
    float *logits;
} pl_step;

/* ---- cpu.c ---- */

/* Whether this CPU has the instructions that functions with such an ending are compiled to; call none before asking. */
int pl_is_supported_avx512(void);
int pl_is_supported_avx2(void);

#endif
