/* The int8 decoder for CPUs with AVX-512 VNNI: what Python calls, and what the source files share.
 *
 * One call computes a whole step: all layers, in all threads of a team, without the interpreter. Every number of a row
 * is computed by the same instructions in the same order whatever other rows the step has, so a sequence's logits
 * have the same bits alone, in a batch, in a chunk of a prompt and after a prefix hit.
 *
 * Rows are tokens. Matrices are row-major; `T` is the number of rows of the step. */
#ifndef PILOTLIGHT_H
#define PILOTLIGHT_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { PL_BLOCK_TOKENS = 32 };  /* of the KV cache */
enum { PL_LANES = 16 };         /* 32-bit numbers in a vector register; output rows in a weight block */

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

/* ---- matmul.c: int8 weights times int8 activations ---- */

/* `weight` holds blocks of PL_LANES output rows: [block][in / 4][PL_LANES][4] bytes, each weight plus 128. `in` and
 * `out` are padded to multiples of PL_LANES there. `bias` may be NULL. */
typedef struct {
    const uint8_t *weight;
    const float *scale; /* (out,) */
    const float *bias;  /* (out,) */
    int32_t out;
    int32_t in;
} pl_linear;

/* T rows of `digits` int8 rows each: x ~ sum over digits of value * scale. `sum` is 128 times the sum of a row's
 * values, which takes the 128 off the weights again. `stride` is the row's length padded to PL_LANES with zeros. */
typedef struct {
    int8_t *value; /* (T * digits, stride) */
    float *scale;  /* (T * digits,) */
    int32_t *sum;  /* (T * digits,) */
    int32_t stride;
    int32_t digits;
} pl_quantised;

typedef enum {
    PL_STORE,   /* out = product */
    PL_ADD,     /* out += product */
    PL_SILU_MUL /* out = silu(gate) * up, where blocks of gate and up rows alternate; half as many columns */
} pl_epilogue;

typedef struct {
    const pl_linear *linear;
    const pl_quantised *x;
    int rows;
    pl_epilogue epilogue;
    float *out; /* (rows, stride) */
    int stride;
} pl_product;

/* A product in items that any threads may compute at any time. */
int pl_product_items(const pl_product *product, int threads);
void pl_product_item(const pl_product *product, int threads, int item);

/* ---- rows.c: what happens to single rows ---- */

/* Quantise `x` (size,) into row `row`. */
void pl_quantise_row(const float *x, int size, pl_quantised *to, int row);
/* `out` = `x` / rms(x), times `weight` where it is not NULL. `out` may be `x`. */
void pl_rms_norm(const float *x, const float *weight, int size, float eps, float *out);
/* Rotate one head in place; `cos` and `sin` are (head_dim / 2,). */
void pl_rotate(float *head, const float *cos, const float *sin, int head_dim);
/* Set to -infinity what is not allowed in some `rows` of `logits` (any, vocab). Of each there is a mask of
 * ceil(vocab / 32) words, in which the bit of an allowed token is set, the lowest bit of the first word for token 0. */
void pl_mask_rows(float *logits, int vocab, const int32_t *rows, int num_rows, const uint32_t *masks);

/* ---- attention.c: over the paged cache ---- */

/* Of one layer, in half precision: keys [block][kv head][head_dim][token], so that a query meets many keys at once;
 * values [block][kv head][token][head_dim]. */
typedef struct {
    uint16_t *keys;
    uint16_t *values;
} pl_cache;

/* Consecutive rows of one sequence, at consecutive positions. */
typedef struct {
    int32_t first_row;
    int32_t num_rows;
    int32_t first_position;
    const int32_t *block_table;
} pl_span;

typedef struct {
    int32_t num_heads;
    int32_t num_kv_heads;
    int32_t head_dim;
    int32_t window; /* keys that a row sees, itself included; 0: all */
} pl_heads;

enum { PL_MAX_QUERIES = 48 }; /* that share a pass over the keys */

size_t pl_attention_scratch_bytes(int head_dim);
void pl_cache_write(const pl_cache *cache, const pl_heads *heads, const pl_span *span, int row, int kv_head,
                    const float *key, const float *value);
/* Attend from rows [first, first + rows) of `span` for one kv head: reads `qkv` and writes `out`, both indexed by row
 * of the step. rows * num_heads / num_kv_heads is at most PL_MAX_QUERIES. */
void pl_attend(const pl_cache *cache, const pl_heads *heads, const pl_span *span, int first, int rows, int kv_head,
               const float *qkv, int qkv_stride, float *out, int out_stride, void *scratch);

/* ---- decoder.c: the step ---- */

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

typedef struct pl_decoder pl_decoder;

/* Keeps a pointer to `model`, which must outlive it. `max_rows` times the kv heads is at most PL_MAX_ITEMS. NULL when there is no memory. */
pl_decoder *pl_decoder_create(const pl_model *model, int threads, int max_rows);
void pl_decoder_destroy(pl_decoder *decoder);
/* At most `max_rows` rows. Not to be called twice at the same time. */
void pl_decoder_step(pl_decoder *decoder, const pl_step *step);

/* ---- cpu.c ---- */

/* Whether this CPU has the instructions that the other files are compiled to; call nothing else before asking. */
int pl_is_supported(void);

#endif
