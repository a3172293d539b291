/*
 * settings.h - every setting of csplade, as structs; settings.c has their rows.
 *
 * The key in a config file is section.member: csp_contrastive_settings.lambda_q of the member
 * `contrastive` is contrastive.lambda_q. Names and standard values are those of `csplade config
 * print`, which is made from the rows. Words of a choice are stored as their index, in the order of
 * the enums named beside the member.
 */
#pragma once

#include "config/field.h"

/* The model that a run starts from, and the text contract that training stores with it. */
typedef struct csp_model_settings {
    char *path;
    int variant; /* csp_variant */
    char *query_prefix;
    char *passage_prefix;
    char *title_separator;
    int64_t query_max_len;
    int64_t passage_max_len;
    bool add_bos;
    bool append_eos;
    double logit_scale;
    csp_i64_list exclude_ids;
    int pooling; /* csp_pooling: max, sum */
    int64_t top_k_query;
    int64_t top_k_passage;
    double quant_scale;
} csp_model_settings;

/* How the adapter goes from one phase to the next. */
typedef enum csp_lora_between { CSP_LORA_KEEP = 0, CSP_LORA_MERGE = 1 } csp_lora_between;

/* How the frozen matrices under an adapter are stored. */
typedef enum csp_lora_base { CSP_LORA_BASE_SAME = 0, CSP_LORA_BASE_FP8 = 1 } csp_lora_base;

typedef struct csp_lora_settings {
    bool enabled; /* not a setting: the section is there and r > 0; else full fine-tuning */
    int64_t r;
    double alpha;
    double dropout;
    bool use_rslora;
    csp_text_list target_modules; /* "q_proj", ... */
    char *init;
    int between_phases; /* csp_lora_between */
    int base_precision; /* csp_lora_base    */
} csp_lora_settings;

typedef struct csp_data_settings {
    char *corpus;
    char *queries;
    char *qrels;
    char *negatives;
    char *train;
    csp_text_list text;
    char *dev_queries;
    char *dev_qrels;
    bool shuffle;
    int64_t prefetch_factor;
    int64_t train_group_size;
    bool strict;
} csp_data_settings;

typedef struct csp_optim_settings {
    double learning_rate;  /* of a loaded config: never 0, which means "by the kind of training" */
    int lr_scheduler_type; /* csp_lr_kind: linear, cosine, constant */
    double warmup_ratio;
    double weight_decay;
    double adam_beta1;
    double adam_beta2;
    double adam_epsilon;
    double max_grad_norm; /* 0: no clipping */
    bool stochastic_rounding;
} csp_optim_settings;

typedef struct csp_batch_settings {
    int64_t queries;
    int64_t texts;
    int64_t micro_batch_tokens;
    bool recompute;
} csp_batch_settings;

typedef struct csp_adapt_settings {
    int64_t max_steps;
    double lambda_relu;
    int64_t max_len;
    csp_optim_settings optim; /* of a loaded config: the section optim with adapt.optim over it */
    csp_batch_settings batch;
} csp_adapt_settings;

typedef enum csp_regularizer { CSP_REGULARIZER_FLOPS = 0, CSP_REGULARIZER_L1 = 1 } csp_regularizer;

typedef struct csp_contrastive_settings {
    int64_t max_steps;
    double temperature;
    double lambda_q;
    double lambda_d;
    int regularizer;    /* csp_regularizer */
    int64_t ramp_steps; /* of a loaded config: never -1, which means a third of max_steps */
    bool mask_known_positives;
    int64_t negative_blocks;
    csp_optim_settings optim; /* of a loaded config: the section optim with contrastive.optim */
    csp_batch_settings batch;
} csp_contrastive_settings;

/* What the evaluations during training look at. */
typedef struct csp_eval_settings {
    int64_t queries;
    int64_t pool;
    int64_t top_k;
    int64_t top_k_terms;
} csp_eval_settings;

/* Whether ranks share out moments and masters of full fine-tuning. */
typedef enum csp_shard_state {
    CSP_SHARD_AUTO = 0, /* where they take CSP_SHARD_LEAST_BYTES or more */
    CSP_SHARD_OFF = 1,
    CSP_SHARD_ON = 2
} csp_shard_state;

#define CSP_SHARD_LEAST_BYTES ((int64_t)1 << 30)

/* Whether checkpoints are written while training goes on. */
typedef enum csp_async_save {
    CSP_ASYNC_SAVE_AUTO = 0, /* where the host has memory for a copy */
    CSP_ASYNC_SAVE_OFF = 1,
    CSP_ASYNC_SAVE_ON = 2 /* a run without the memory is refused */
} csp_async_save;

typedef struct csp_run_settings {
    char *output_dir;
    csp_text_list phases; /* "adapt", "contrastive", in this order */
    int64_t seed;
    int64_t logging_steps;
    int64_t eval_steps;
    int64_t save_steps;
    int64_t save_total_limit;
    int async_save; /* csp_async_save */
    char *metric_for_best;
    bool keep_best;
    double max_minutes;
    char *resume;
    int64_t max_skipped_steps;
    bool stop_on_collapse;
    double collapse_share;
    double rank_timeout_s;
    int64_t checksum_steps;
    int shard_state; /* csp_shard_state */
    double bucket_mb;
} csp_run_settings;

typedef enum csp_precision {
    CSP_PRECISION_AUTO = 0, /* bf16 where the device has it, else fp32 */
    CSP_PRECISION_FP32 = 1,
    CSP_PRECISION_BF16 = 2
} csp_precision;

typedef struct csp_device_settings {
    char *name;    /* "auto", "cpu", "cuda", "cuda:1" */
    int precision; /* csp_precision                   */
    int64_t threads;
    bool sync_every_op;
    bool tune_products;
    int head_forward;  /* csp_pool_forward, 0: auto */
    int head_backward; /* csp_pool_way, 0: auto */
    int graphs;        /* csp_graphs, 0: auto   */
} csp_device_settings;

/* All settings, and where each value came from (private to config.c). */
typedef struct csp_config {
    csp_model_settings model;
    csp_lora_settings lora;
    csp_data_settings data;
    csp_adapt_settings adapt;
    csp_contrastive_settings contrastive;
    csp_optim_settings optim; /* standards of the phases: read adapt.optim, contrastive.optim */
    csp_batch_settings batch;
    csp_eval_settings eval;
    csp_run_settings run;
    csp_device_settings device;
    struct csp_origin *origins;
} csp_config;

typedef struct csp_section {
    const char *name; /* "contrastive.optim" */
    const csp_field *fields;
    int count;
    size_t offset;        /* of the struct in csp_config                                */
    const char *inherits; /* section whose values stand where this one sets none, or NULL */
    const char *phase;    /* the phase that reads it, NULL: every run                   */
    bool optional;        /* its absence means something: lora                          */
    const char *help;
} csp_section;

extern const csp_section csp_sections[];
extern const int csp_section_count;

/* What other programs of this field call a setting. */
typedef struct csp_setting_alias {
    const char *foreign; /* "q_flops_loss_factor"                         */
    const char *ours;    /* "contrastive.lambda_q", NULL: there is none   */
    const char *note;    /* what to know besides the name, "" for nothing */
} csp_setting_alias;

extern const csp_setting_alias csp_setting_aliases[];
extern const int csp_setting_alias_count;
