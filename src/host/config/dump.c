/* dump.c - a resolved config as text: for people, for a checkpoint, and for comparing two. */
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "config/config.h"
#include "config/origin.h"

enum { COMMENT_COLUMN = 44 };

/* Closes a stream of open_memstream; on failure frees its text. */
static csp_status close_text(FILE *stream, char **text)
{
    const bool failed = ferror(stream) != 0;

    if (fclose(stream) != 0 || failed) {
        free(*text);
        *text = NULL;
        return CSP_FAIL(CSP_ERR_MEMORY, "config: no memory for its text");
    }
    return CSP_OK;
}

/* The last part of a dotted name, and how deep it lies. */
static const char *last_part(const char *name, int *depth)
{
    const char *last = name;

    *depth = 0;
    for (const char *at = name; *at != '\0'; at++) {
        if (*at == '.') {
            last = at + 1;
            (*depth)++;
        }
    }
    return last;
}

static void write_help(const csp_field *field, int indent, const char *mark, FILE *stream)
{
    const bool limits = field->choices != NULL || field->kind == CSP_FIELD_I64 ||
                        field->kind == CSP_FIELD_F64 || field->kind == CSP_FIELD_I64S;

    fprintf(stream, "%s%*s# %s%s", mark, indent, "", field->help, limits ? " (" : "");
    csp_field_write_limits(field, stream);
    fputs(limits ? ")\n" : "\n", stream);
}

/* "  key: value      # standard" */
static void write_setting(const csp_config *config, int s, int f, int indent, const char *mark,
                          FILE *stream)
{
    const csp_section *section = &csp_sections[s];
    const csp_field *field = &section->fields[f];
    const csp_origin *origin = &config->origins[csp_origin_first(s) + f];
    const int used = (int)(strlen(mark) + strlen(field->key) + strlen(origin->text)) + indent + 2;
    const bool computed =
        (strcmp(field->key, "learning_rate") == 0 && strcmp(origin->text, "0") == 0) ||
        (strcmp(field->key, "ramp_steps") == 0 && strcmp(origin->text, "-1") == 0);

    fprintf(stream, "%s%*s%s: %s%*s# %s", mark, indent, "", field->key, origin->text,
            used < COMMENT_COLUMN ? COMMENT_COLUMN - used : 2, "",
            origin->is_set ? origin->place : "standard");
    if (computed) {
        fputs(", here ", stream);
        csp_field_write(field, csp_section_object_const(section, config), stream);
    }
    fputc('\n', stream);
}

static void write_section(const csp_config *config, int s, bool explain, FILE *stream)
{
    const csp_section *section = &csp_sections[s];
    const bool present = csp_section_is_set(config, s);
    const bool absent = section->optional && !present;
    const char *mark = absent ? "# " : "";
    int depth;
    const char *name = last_part(section->name, &depth);
    const int indent = 2 * depth;

    if (section->inherits != NULL && !present) {
        if (explain) {
            fprintf(stream, "%*s# %s: {}  # %s\n", indent, "", name, section->help);
        }
        return;
    }
    if (depth == 0 && (s > 0 || explain)) {
        fputc('\n', stream);
    }
    if (explain || absent) {
        fprintf(stream, "%*s# %s\n", indent, "", section->help);
    }
    if (absent && !explain) {
        return;
    }
    fprintf(stream, "%s%*s%s:\n", mark, indent, "", name);
    for (int f = 0; f < section->count; f++) {
        if (section->inherits != NULL && !config->origins[csp_origin_first(s) + f].is_set) {
            continue;
        }
        if (explain) {
            write_help(&section->fields[f], indent + 2, mark, stream);
        }
        write_setting(config, s, f, indent + 2, mark, stream);
    }
}

csp_status csp_config_dump(const csp_config *config, bool explain, char **text)
{
    char *written = NULL;
    size_t bytes = 0;
    FILE *stream = open_memstream(&written, &bytes);

    if (stream == NULL) {
        return CSP_FAIL(CSP_ERR_MEMORY, "config: no memory for its text");
    }
    if (explain) {
        fputs("# Every setting of csplade: its meaning, its limits, its value and where that comes "
              "from.\n# Made by: csplade config print\n",
              stream);
    }
    for (int s = 0; s < csp_section_count; s++) {
        write_section(config, s, explain, stream);
    }
    CSP_TRY(close_text(stream, &written));
    *text = written;
    return CSP_OK;
}

csp_status csp_config_meaning(const csp_config *config, char **text)
{
    char *written = NULL;
    size_t bytes = 0;
    FILE *stream = open_memstream(&written, &bytes);

    if (stream == NULL) {
        return CSP_FAIL(CSP_ERR_MEMORY, "config: no memory for its text");
    }
    for (int s = 0; s < csp_section_count; s++) {
        const csp_section *section = &csp_sections[s];

        if (csp_section_is_inherited(section) || (section->optional && !config->lora.enabled) ||
            (section->phase != NULL && !csp_config_has_phase(config, section->phase))) {
            continue;
        }
        for (int f = 0; f < section->count; f++) {
            if (!section->fields[f].free) {
                fprintf(stream, "%s.%s: ", section->name, section->fields[f].key);
                csp_field_write(&section->fields[f], csp_section_object_const(section, config),
                                stream);
                fputc('\n', stream);
            }
        }
    }
    CSP_TRY(close_text(stream, &written));
    *text = written;
    return CSP_OK;
}

csp_status csp_config_hash(const csp_config *config, uint64_t *out)
{
    char *text = NULL;

    CSP_TRY(csp_config_meaning(config, &text));
    *out = XXH3_64bits(text, strlen(text));
    free(text);
    return CSP_OK;
}

/* Describes the first line in which the two texts differ; their keys come in the same order. */
static void describe_difference(const char *there, const char *here, char *text, size_t bytes)
{
    for (;;) {
        const int there_line = (int)strcspn(there, "\n"), here_line = (int)strcspn(here, "\n");
        const int there_key = (int)strcspn(there, ":"), here_key = (int)strcspn(here, ":");

        if (there_line == here_line && memcmp(there, here, (size_t)there_line) == 0) {
            there += there_line + 1;
            here += here_line + 1;
            continue;
        }
        if (there_key == here_key && memcmp(there, here, (size_t)there_key) == 0) {
            snprintf(text, bytes, "%.*s is %.*s there and %.*s here", here_key, here,
                     there_line - there_key - 2, there + there_key + 2, here_line - here_key - 2,
                     here + here_key + 2);
        } else if (strncmp(there, "lora.", 5) == 0) {
            snprintf(text, bytes, "adapters are trained there (a lora section) and not here");
        } else if (strncmp(here, "lora.", 5) == 0) {
            snprintf(text, bytes, "adapters are trained here (a lora section) and not there");
        } else {
            snprintf(text, bytes, "run.phases differs");
        }
        return;
    }
}

csp_status csp_config_compare(const csp_config *there, const csp_config *here, char *difference,
                              size_t bytes)
{
    char *a = NULL, *b = NULL;
    csp_status status;

    CSP_TRY_GOTO(csp_config_meaning(there, &a));
    CSP_TRY_GOTO(csp_config_meaning(here, &b));
    difference[0] = '\0';
    if (strcmp(a, b) != 0) {
        describe_difference(a, b, difference, bytes);
    }

fail:
    free(a);
    free(b);
    return status;
}
