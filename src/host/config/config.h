/*
 * config.h - a resolved config: standards, then the files that `extends` names, then the file,
 * then --set; every value with its origin.
 */
#pragma once

#include "config/settings.h"

/*
 * Loads and resolves a config. What depends on other settings is filled in: adapt.optim and its
 * like inherit, a learning rate of 0 and ramp_steps -1 get their value, lora.enabled is set.
 *
 *   path       in   YAML file, NULL for the standards alone. "extends: other.yaml" (relative to the
 *                   file's folder) is read first, chains are allowed, cycles are errors
 *   overrides  in   count texts "section.key=value", applied last in order; a list is "[a, b]" or
 *                   one value
 *   out        out  freed by csp_config_free
 *
 * Errors: CSP_ERR_CONFIG: one sentence with file:line (or --set text), key, value and limit, and
 *         the nearest known name for an unknown key; CSP_ERR_IO; CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_config_load(const char *path, const char *const *overrides, int count,
                                       csp_config **out);

/* The same from a text, as it is stored in a checkpoint; `extends` is refused in it. */
CSP_CHECKED csp_status csp_config_parse(const char *name, const char *text, csp_config **out);
void csp_config_free(csp_config *config);

/*
 * Checks what settings must satisfy together before `train`: required ones are there, data for
 * every phase, limits that depend on each other. No file is touched.
 *
 * Errors: CSP_ERR_CONFIG; CSP_ERR_UNSUPPORTED for bf16 without a GPU.
 */
CSP_CHECKED csp_status csp_config_validate(const csp_config *config);

/* Whether so many ranks can share the steps of its phases out. Errors: CSP_ERR_CONFIG. */
CSP_CHECKED csp_status csp_config_check_ranks(const csp_config *config, int ranks);

/* Whether run.phases has this name. */
bool csp_config_has_phase(const csp_config *config, const char *phase);

/*
 * The resolved config as YAML that csp_config_parse reads back to the same values; every line ends
 * in a comment with the value's origin: standard, file:line or --set.
 *
 *   explain   in   also what each setting means and its limits
 *
 * Owner: the caller frees *text.
 */
CSP_CHECKED csp_status csp_config_dump(const csp_config *config, bool explain, char **text);

/*
 * What decides the result, "section.key: value" lines: every setting that the phases read, except
 * "free" ones such as run.output_dir, with nothing left to compute. Equal for different spellings
 * of the same values and for different origins; csp_config_parse reads it back. This is what a
 * checkpoint stores.
 *
 * Owner: the caller frees *text.
 */
CSP_CHECKED csp_status csp_config_meaning(const csp_config *config, char **text);

/* XXH3 of csp_config_meaning. */
CSP_CHECKED csp_status csp_config_hash(const csp_config *config, uint64_t *out);

/*
 * Compares the meanings of two configs. difference (at least 256 bytes) gets "" when equal, else
 * "contrastive.lambda_q is 0.001 there and 0.01 here" for the first difference.
 */
CSP_CHECKED csp_status csp_config_compare(const csp_config *there, const csp_config *here,
                                          char *difference, size_t bytes);
