/*
 * holder.h - a table of parameters with memory for its values and nothing else: no model around it.
 */
#pragma once

#include "model/fixture.h"

static inline const char *fixture_file(const char *name, const char *file)
{
    static char path[700];

    snprintf(path, sizeof(path), "%s/%s", fixture_dir(name), file);
    return path;
}

/* A model's table with memory for its values, and no values yet but 0. */
typedef struct holder {
    csp_backend *be;
    csp_params *params;
    csp_arena keep;
} holder;

static inline void hold(holder *h, const csp_model_config *config, const csp_lora *lora,
                        csp_train_mode train)
{
    csp_params_size size;

    csp_backend_register("cpu", csp_cpu_open);
    assert_ok(csp_backend_create("cpu", 1, &h->be));
    assert_ok(csp_params_create(config, lora, train, (csp_storage) { 0 }, &h->params));
    assert_ok(csp_params_bytes(h->params, &size));
    assert_ok(csp_backend_reserve(h->be, size.values + size.masters + size.gradients + size.moments,
                                  &h->keep));
    assert_ok(csp_params_place(h->params, &h->keep));
    assert_int_equal(h->keep.used, h->keep.capacity);
    for (int64_t i = 0; i < h->params->count; i++) {
        assert_ok(csp_backend_zero(h->be, &h->params->rows[i].value));
    }
}

static inline void let_go(holder *h)
{
    csp_backend_release(h->be, &h->keep);
    csp_params_destroy(h->params);
    csp_backend_destroy(h->be);
}

static inline void hold_fixture(holder *h, const char *name, const csp_lora *lora)
{
    const csp_lora none = { 0 };
    csp_model_config config;

    assert_ok(csp_model_config_read(fixture_file(name, "config.json"), &config));
    hold(h, &config, lora != NULL ? lora : &none, CSP_TRAIN_NONE);
}
