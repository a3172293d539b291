/*
 * precision.h - in which type a model is stored and computed: what was asked for, and what the
 * device has. The one place where that is decided.
 */
#pragma once

#include "config/settings.h"
#include "model/params.h"

/*
 * The storage type for a precision: auto is bf16 where be has it, else f32.
 *
 * Errors: CSP_ERR_UNSUPPORTED where bf16 is asked for and be has none.
 */
CSP_CHECKED csp_status csp_precision_choose(const csp_backend *be, csp_precision asked,
                                            csp_dtype *out);

/*
 * Whether the frozen matrices under an adapter are stored in 8 bits.
 *
 * Errors: CSP_ERR_UNSUPPORTED where that is asked for and be has no products of them.
 */
CSP_CHECKED csp_status csp_precision_base(const csp_backend *be, const csp_lora_settings *lora,
                                          bool *out);

/* "fp32" or "bf16": what a storage type is called in settings and checkpoints. */
const char *csp_precision_name(csp_dtype dtype);

/* The precision of a name; CSP_PRECISION_AUTO for any other word. */
csp_precision csp_precision_named(const char *name);
