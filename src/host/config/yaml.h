/*
 * yaml.h - a YAML file as a flat list of (dotted key, texts, line). The only user of libyaml.
 *
 *     contrastive:              ->  contrastive.lambda_q   ["1e-3"]   line 2
 *       lambda_q: 1e-3              run.phases             ["adapt", "contrastive"]   line 4
 *     run:
 *       phases: [adapt, contrastive]
 *
 * What a config has no use for is refused with its line: anchors and aliases, tags, several
 * documents, lists of lists or maps, a key twice (both lines are named), NUL bytes.
 */
#pragma once

#include <stddef.h>

#include "core/status.h"

typedef enum csp_yaml_kind {
    CSP_YAML_TEXT,     /* one value                            */
    CSP_YAML_NULL,     /* nothing, ~ or null: count is 0       */
    CSP_YAML_LIST,     /* count values, maybe 0                */
    CSP_YAML_EMPTY_MAP /* {}: count is 0                       */
} csp_yaml_kind;

typedef struct csp_yaml_entry {
    char *key;
    int64_t line; /* of the key, counted from 1 */
    csp_yaml_kind kind;
    char **values;
    int64_t count;
} csp_yaml_entry;

typedef struct csp_yaml {
    char *name;              /* the file as it was given, for texts */
    csp_yaml_entry *entries; /* in file order                       */
    int64_t count;
} csp_yaml;

/*
 * Reads a file of at most 1 MiB.
 *
 * Owner:  csp_yaml_free.
 * Errors: CSP_ERR_IO (path and cause); CSP_ERR_CONFIG ("file:line: ..."); CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_yaml_read(const char *path, csp_yaml **out);

/* The same from memory; name stands for the file in messages. */
CSP_CHECKED csp_status csp_yaml_parse(const char *name, const char *text, size_t bytes,
                                      csp_yaml **out);
void csp_yaml_free(csp_yaml *yaml);
