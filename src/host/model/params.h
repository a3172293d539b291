/*
 * params.h - the one table of parameters: a row for each tensor of a model, with its checkpoint
 * name, shape, whether it is trained, and where its value, gradient and moments are.
 *
 * Everything that walks over parameters walks over this table: loading, saving, initialising,
 * optimizing, counting. Building it takes no memory for the tensors themselves, so that the same
 * rows tell what a model would need.
 */
#pragma once

#include "core/arena.h"
#include "model/lora.h"
#include "model/model_config.h"
#include "ops/optim.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Never renumber: random initial values are keyed by layer, kind and matrix. */
typedef enum csp_param_kind {
    CSP_PARAM_EMBED = 0,      /* (V,D)  model.embed_tokens.weight                        */
    CSP_PARAM_ATTN_NORM = 1,  /* (D)    input_layernorm.weight                           */
    CSP_PARAM_WEIGHT = 2,     /* (O,I)  of one csp_matrix                                */
    CSP_PARAM_BIAS = 3,       /* (O)    of one csp_matrix                                */
    CSP_PARAM_Q_NORM = 4,     /* (E)    self_attn.q_norm.weight                          */
    CSP_PARAM_K_NORM = 5,     /* (E)    self_attn.k_norm.weight                          */
    CSP_PARAM_MLP_NORM = 6,   /* (D)    post_attention_layernorm.weight                  */
    CSP_PARAM_FINAL_NORM = 7, /* (D)    model.norm.weight                                */
    CSP_PARAM_HEAD = 8,       /* (V,D)  lm_head.weight; no row where tied                */
    CSP_PARAM_LORA_A = 9,     /* (R,I)  of one csp_matrix                                */
    CSP_PARAM_LORA_B = 10     /* (O,R)  of one csp_matrix                                */
} csp_param_kind;

typedef enum csp_train_mode {
    CSP_TRAIN_NONE = 0, /* encode only                             */
    CSP_TRAIN_LORA = 1, /* the adapters; everything else is frozen */
    CSP_TRAIN_FULL = 2  /* every parameter; no adapters            */
} csp_train_mode;

/*
 * How ranks that train a model whole add up its gradients, and whether each keeps the moments and
 * masters of all parameters or of its part alone (model/buckets.h). { 0 }: one rank, all of them.
 */
typedef struct csp_sharing {
    int ranks; /* that state is shared out among; 0 and 1: each has all of it          */
    int rank;
    int64_t bucket_bytes; /* of gradients that are added up at once, at least; 0: all of them */
    int64_t least_bytes;  /* state that takes less is not shared out                         */
} csp_sharing;

/*
 * In which type weights and activations are, and how they lie. Gradients, moments and masters are
 * f32 whatever it is. { 0 } is float32 throughout, nothing apart.
 */
typedef struct csp_storage {
    csp_dtype dtype; /* CSP_F32 or CSP_BF16                                              */
    bool stochastic; /* trained bf16 values have no f32 master: updates are rounded at random */
    uint64_t seed;   /* of that rounding                                                     */
    bool fp8;        /* frozen matrices of blocks are e4m3, with a scale for each output; of
                        CSP_TRAIN_LORA only (docs/method.md 8.6)                              */
    bool apart;      /* rows of matrices may lie apart: the backend has it (csp_backend.apart), and
                        operands of linear maps have tails for adapters (ops/linear.h)          */
    csp_sharing sharing; /* of CSP_TRAIN_FULL only                                               */
} csp_storage;

/* The matrices of a block that are applied together: those of one input. */
typedef enum csp_matrix_group {
    CSP_GROUP_QKV = 0,
    CSP_GROUP_O = 1,
    CSP_GROUP_GATE_UP = 2,
    CSP_GROUP_DOWN = 3,
    CSP_GROUP_COUNT = 4
} csp_matrix_group;

/* The first matrix of a group, how many it has, and the group of a matrix. */
csp_matrix csp_group_first(csp_matrix_group group);
int csp_group_size(csp_matrix_group group);
csp_matrix_group csp_matrix_group_of(csp_matrix matrix);

enum {
    CSP_PARAM_NAME_BYTES = 128,
    CSP_PARAM_STAGED = 1 << 18 /* numbers of a matrix in 8 bits that are quantised at a time  */
};

typedef struct csp_param {
    char name[CSP_PARAM_NAME_BYTES]; /* in model.safetensors or adapter_model.safetensors */
    csp_param_kind kind;
    csp_matrix matrix; /* CSP_MATRIX_COUNT where the kind has none              */
    int32_t layer;     /* -1 outside the blocks                                 */
    int ndim;
    int64_t dim[2]; /* dim[1] = 1 where ndim is 1                            */
    bool trained;
    bool decay;        /* weight decay applies: matrices, not norms and biases  */
    csp_tensor value;  /* of storage.dtype; without memory until csp_params_place; rows of a
                          weight lie apart where its group has a tail             */
    csp_tensor scale;  /* (O) f32 where value is e4m3; none else                  */
    csp_tensor staged; /* (CSP_PARAM_STAGED) f32 work memory of uploads to e4m3, one for all
                          rows; none else                                         */
    csp_tensor master; /* f32, of which value is the rounding; none unless trained in
                          another type, or where updates are stochastic         */
    csp_tensor grad;   /* f32; none unless trained                              */
    csp_tensor m, v;   /* f32 moments of AdamW; none unless trained             */
    /* Where state is shared out, m, v and master are (own_count): */
    int64_t own_first; /* element of the row                                    */
    int64_t own_count; /* all of a trained row's where nothing is shared out    */
    int64_t flat;      /* first element in the flat arrays of csp_params        */
    int64_t state;     /* first element of m, v and master in theirs            */
} csp_param;

/* A piece of the flat array of gradients (model/buckets.h). */
typedef struct csp_bucket {
    int64_t first, count; /* elements                                                   */
    int64_t part;         /* of each rank: count divided by the ranks that share state  */
    int64_t state;        /* first element of this rank's part among its state          */
    int64_t row, rows;    /* the first of its rows in the table, where they are neighbours */
    int32_t layer;        /* complete with the gradients of this layer; L is what is above
                             the blocks, -1 the embedding                               */
} csp_bucket;

/* The rows of one block by role; NULL where the model has no such tensor. */
typedef struct csp_layer {
    csp_param *attn_norm, *mlp_norm, *q_norm, *k_norm;
    csp_param *weight[CSP_MATRIX_COUNT], *bias[CSP_MATRIX_COUNT];
    csp_param *lora_a[CSP_MATRIX_COUNT], *lora_b[CSP_MATRIX_COUNT];
    /* Beside and below the weights of a group (ops/linear.h), or none. */
    csp_tensor w_tail[CSP_GROUP_COUNT], a_tail[CSP_GROUP_COUNT];
} csp_layer;

typedef struct csp_params {
    csp_model_config config;
    csp_lora lora;
    csp_train_mode train;
    csp_storage storage;
    csp_param *rows;
    int64_t count;
    int64_t trained;   /* rows with a gradient                             */
    csp_layer *layers; /* [L]                                              */
    csp_param *embed, *final_norm;
    csp_param *head; /* the embedding's row where tied                   */
    /* Of CSP_TRAIN_FULL: */
    csp_bucket *buckets;   /* from the top of the network down                    */
    int64_t bucket_count;  /* 0 where adapters alone are trained                  */
    int64_t flat_elements; /* of all gradients, with what lies between them       */
    int64_t own_elements;  /* of this rank's parts                                */
} csp_params;

/*
 * Builds the table; tensors have shapes but no memory.
 *
 *   lora      in   R = 0: no adapters. CSP_TRAIN_LORA needs R > 0, CSP_TRAIN_FULL needs R = 0.
 *   storage   in   type of the values; state that is too small for storage.sharing stays whole
 *
 * Errors: CSP_ERR_ARGUMENT, CSP_ERR_MEMORY, CSP_ERR_UNSUPPORTED (storage.fp8 with matrices that are
 *         not whole multiples of 16).
 */
CSP_CHECKED csp_status csp_params_create(const csp_model_config *config, const csp_lora *lora,
                                         csp_train_mode train, csp_storage storage,
                                         csp_params **out);
void csp_params_destroy(csp_params *params); /* the rows; the arena owns the tensors */

/* How wide the tails of a group are; 0: it has none. */
int64_t csp_params_tail(const csp_params *params, csp_matrix_group group);

/*
 * Takes values with their scales, masters, gradients, then moments from an arena; on a ruler this
 * measures. Matrices of a group, and their A, are neighbours, so that a backend can take them for
 * one. Gradients of a model that is trained whole lie as csp_param.flat says.
 */
CSP_CHECKED csp_status csp_params_place(csp_params *params, csp_arena *keep);

/* Bytes csp_params_place would take, in its parts. */
typedef struct csp_params_size {
    size_t values, masters, gradients, moments;
} csp_params_size;
CSP_CHECKED csp_status csp_params_bytes(const csp_params *params, csp_params_size *out);

/* Numbers in all rows, and in the trained ones. Either pointer may be NULL. */
void csp_params_elements(const csp_params *params, int64_t *all, int64_t *trained);

/* By checkpoint name; NULL if there is none. */
csp_param *csp_params_find(const csp_params *params, const char *name);

/*
 * Fills tensors[params->trained] for csp_grad_squares and csp_adamw, in table order; where state is
 * shared out, with this rank's elements of each.
 */
void csp_params_optim(const csp_params *params, csp_optim_tensor *tensors);

/* How many ranks share the state out; 1: each has all of it. */
static inline int csp_params_shards(const csp_params *params)
{
    return params->storage.sharing.ranks > 1 ? params->storage.sharing.ranks : 1;
}

static inline bool csp_params_sharded(const csp_params *params)
{
    return csp_params_shards(params) > 1;
}

/* Bytes of AdamW's state for each weight of a full model: moments, and a master if it has one. */
static inline int64_t csp_params_state_bytes(const csp_params *params)
{
    return params->embed->master.ndim > 0 ? 12 : 8;
}

static inline bool csp_param_is_lora(const csp_param *row)
{
    return row->kind == CSP_PARAM_LORA_A || row->kind == CSP_PARAM_LORA_B;
}

#ifdef __cplusplus
}
#endif
