/*
 * model_config.c - families, their standards, and the ranges of every setting.
 */
#include "model/model_config.h"

#include <math.h>
#include <string.h>

/* What differs between families where config.json is silent. */
static const struct {
    const char *name;
    int64_t max_position, sliding_window;
    bool qkv_bias, qk_norm;
} families[CSP_FAMILY_COUNT] = {
    [CSP_FAMILY_LLAMA] = { "llama", 2048, 0, false, false },
    [CSP_FAMILY_MISTRAL] = { "mistral", 131072, 4096, false, false },
    [CSP_FAMILY_QWEN2] = { "qwen2", 32768, 0, true, false },
    [CSP_FAMILY_QWEN3] = { "qwen3", 32768, 0, false, true },
};

const char *csp_family_name(csp_family family)
{
    CSP_ASSERT((int)family >= 0 && (int)family < CSP_FAMILY_COUNT);
    return families[family].name;
}

csp_status csp_family_from_name(const char *name, csp_family *out)
{
    for (int f = 0; f < CSP_FAMILY_COUNT; f++) {
        if (strcmp(name, families[f].name) == 0) {
            *out = (csp_family)f;
            return CSP_OK;
        }
    }
    return CSP_FAIL(CSP_ERR_ARGUMENT,
                    "model_type \"%.64s\" is not one of llama, mistral, qwen2, qwen3", name);
}

csp_model_config csp_model_config_standard(csp_family family)
{
    csp_model_config config = { 0 };

    CSP_ASSERT((int)family >= 0 && (int)family < CSP_FAMILY_COUNT);
    config.family = family;
    config.rms_eps = 1e-6;
    config.rope.theta = 10000.0;
    config.max_position = families[family].max_position;
    config.sliding_window = families[family].sliding_window;
    config.initializer_range = 0.02;
    config.qkv_bias = families[family].qkv_bias;
    config.qk_norm = families[family].qk_norm;
    config.causal = true;
    config.bos_id = -1;
    config.pad_id = -1;
    return config;
}

/* One integer with its limits; a table, so that a new key is a new row. */
typedef struct range {
    const char *key;
    int64_t value, min, max;
} range;

static csp_status check_ranges(const csp_model_config *c, const char *where)
{
    const range ranges[] = {
        { "hidden_size", c->D, 1, 65536 },
        { "intermediate_size", c->F, 1, 1 << 20 },
        { "num_hidden_layers", c->L, 1, 4096 },
        { "num_attention_heads", c->H, 1, 4096 },
        { "num_key_value_heads", c->G, 1, 4096 },
        { "head_dim", c->E, 2, 4096 },
        { "vocab_size", c->V, 1, 1 << 24 },
        { "max_position_embeddings", c->max_position, 1, (int64_t)1 << 30 },
        { "sliding_window", c->sliding_window, 0, (int64_t)1 << 30 },
        { "bos_token_id", c->bos_id, -1, c->V - 1 },
        { "pad_token_id", c->pad_id, -1, c->V - 1 },
        { "number of eos_token_id", c->eos_count, 0, CSP_MAX_EOS },
    };

    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        if (ranges[i].value < ranges[i].min || ranges[i].value > ranges[i].max) {
            return CSP_FAIL(CSP_ERR_FORMAT, "%s: %s is %lld, not in %lld..%lld", where,
                            ranges[i].key, (long long)ranges[i].value, (long long)ranges[i].min,
                            (long long)ranges[i].max);
        }
    }
    for (int64_t i = 0; i < c->eos_count; i++) {
        if (c->eos_id[i] < 0 || c->eos_id[i] >= c->V) {
            return CSP_FAIL(CSP_ERR_FORMAT, "%s: eos_token_id is %lld, not in 0..%lld", where,
                            (long long)c->eos_id[i], (long long)c->V - 1);
        }
    }
    return CSP_OK;
}

/* value must be finite and in (0, max]; written so that NaN fails. */
static csp_status check_positive(const char *where, const char *key, double value, double max)
{
    if (value > 0.0 && value <= max) {
        return CSP_OK;
    }
    return CSP_FAIL(CSP_ERR_FORMAT, "%s: %s is %g, not above 0 and at most %g", where, key, value,
                    max);
}

static csp_status check_rope(const csp_rope *rope, const char *where)
{
    CSP_TRY(check_positive(where, "rope_theta", rope->theta, 1e15));
    if (!rope->llama3) {
        return CSP_OK;
    }
    CSP_TRY(check_positive(where, "rope factor", rope->factor, 1e6));
    CSP_TRY(check_positive(where, "rope low_freq_factor", rope->low_freq_factor, 1e6));
    CSP_TRY(check_positive(where, "rope high_freq_factor", rope->high_freq_factor, 1e6));
    CSP_TRY(check_positive(where, "rope original_max_position_embeddings",
                           rope->original_max_position, 1e9));
    if (rope->high_freq_factor <= rope->low_freq_factor) {
        return CSP_FAIL(CSP_ERR_FORMAT,
                        "%s: rope high_freq_factor %g is not above low_freq_factor %g", where,
                        rope->high_freq_factor, rope->low_freq_factor);
    }
    return CSP_OK;
}

csp_status csp_model_config_check(const csp_model_config *config, const char *where)
{
    CSP_TRY(check_ranges(config, where));
    if (config->H % config->G != 0) {
        return CSP_FAIL(
            CSP_ERR_FORMAT,
            "%s: num_attention_heads %lld is not a multiple of num_key_value_heads %lld", where,
            (long long)config->H, (long long)config->G);
    }
    if (config->E % 2 != 0) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: head_dim %lld is odd: rotation needs pairs", where,
                        (long long)config->E);
    }
    CSP_TRY(check_positive(where, "rms_norm_eps", config->rms_eps, 1.0));
    CSP_TRY(check_positive(where, "initializer_range", config->initializer_range, 10.0));
    return check_rope(&config->rope, where);
}
