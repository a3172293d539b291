/*
 * origin.h - for config/ only: where the value of every setting came from, and iteration over them.
 */
#pragma once

#include "config/settings.h"

/* One for every field of every section, in the order of csp_sections. */
typedef struct csp_origin {
    bool is_set; /* by a file or an override; false: the standard, or what it inherits */
    char *place; /* "base.yaml:14" or "--set"; NULL unless is_set                      */
    char *text;  /* the value as YAML before it was resolved                           */
} csp_origin;

/* The struct of a section within config. */
void *csp_section_object(const csp_section *section, csp_config *config);
const void *csp_section_object_const(const csp_section *section, const csp_config *config);

/* Number of the section's first origin in config->origins; csp_section_count gives their total. */
int csp_origin_first(int section);

/* Whether a file or an override sets anything in the section. */
bool csp_section_is_set(const csp_config *config, int section);

/* Whether another section takes its values from this one. */
bool csp_section_is_inherited(const csp_section *section);

/* Fills in what depends on other settings. Called once, after all values are applied. */
CSP_CHECKED csp_status csp_config_resolve(csp_config *config);
