/* yaml.c - libyaml's events, walked with the key of every open mapping on a small stack. */
#include "config/yaml.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "core/memory.h"

/* All keys are compared with each other; there are some hundred settings. */
enum { FILE_LIMIT = 1 << 20, KEY_BYTES = 256, DEPTH_LIMIT = 8, ENTRY_LIMIT = 4096 };

/* The state of one read: the list so far, and the dotted key of the mapping being read. */
typedef struct reader {
    yaml_parser_t parser;
    csp_yaml *yaml;
    int64_t capacity;
    char key[KEY_BYTES];
} reader;

/* The next event, refused if it is of a sort that configs do not use. */
static csp_status next_event(reader *r, yaml_event_t *event)
{
    const char *name = r->yaml->name;
    const yaml_char_t *anchor = NULL, *tag = NULL;
    long long line;

    if (!yaml_parser_parse(&r->parser, event)) {
        const char *problem = r->parser.problem != NULL ? r->parser.problem : "not readable";

        if (r->parser.error == YAML_MEMORY_ERROR) {
            return CSP_FAIL(CSP_ERR_MEMORY, "%s: no memory to read it", name);
        }
        if (r->parser.error == YAML_READER_ERROR) {
            return CSP_FAIL(CSP_ERR_CONFIG, "%s: byte %zu: %s", name, r->parser.problem_offset,
                            problem);
        }
        return CSP_FAIL(CSP_ERR_CONFIG, "%s:%zu: %s", name, r->parser.problem_mark.line + 1,
                        problem);
    }
    line = (long long)event->start_mark.line + 1;
    if (event->type == YAML_SCALAR_EVENT) {
        anchor = event->data.scalar.anchor;
        tag = event->data.scalar.tag;
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        anchor = event->data.sequence_start.anchor;
        tag = event->data.sequence_start.tag;
    } else if (event->type == YAML_MAPPING_START_EVENT) {
        anchor = event->data.mapping_start.anchor;
        tag = event->data.mapping_start.tag;
    }
    if (event->type == YAML_ALIAS_EVENT || anchor != NULL || tag != NULL) {
        yaml_event_delete(event);
        return CSP_FAIL(CSP_ERR_CONFIG, "%s:%lld: %s are not used in a config", name, line,
                        tag != NULL ? "tags (!...)" : "anchors and aliases (&..., *...)");
    }
    return CSP_OK;
}

static csp_status check_no_nul(const reader *r, const yaml_event_t *scalar)
{
    if (memchr(scalar->data.scalar.value, '\0', scalar->data.scalar.length) != NULL) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s:%zu: a NUL byte in a text", r->yaml->name,
                        scalar->start_mark.line + 1);
    }
    return CSP_OK;
}

static csp_status add_entry(reader *r, int64_t line, csp_yaml_kind kind, csp_yaml_entry **out)
{
    csp_yaml *yaml = r->yaml;
    csp_yaml_entry *entry;

    for (int64_t i = 0; i < yaml->count; i++) {
        if (strcmp(yaml->entries[i].key, r->key) == 0) {
            return CSP_FAIL(CSP_ERR_CONFIG, "%s:%lld: %s was already set at line %lld", yaml->name,
                            (long long)line, r->key, (long long)yaml->entries[i].line);
        }
    }
    if (yaml->count == ENTRY_LIMIT) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s:%lld: more than %d settings, no config", yaml->name,
                        (long long)line, ENTRY_LIMIT);
    }
    if (yaml->count == r->capacity) {
        const int64_t larger = r->capacity * 2 + 32;

        CSP_TRY(csp_realloc(yaml->name, larger, sizeof(*yaml->entries), &yaml->entries));
        r->capacity = larger;
    }
    entry = &yaml->entries[yaml->count];
    *entry = (csp_yaml_entry) { NULL, line, kind, NULL, 0 };
    CSP_TRY(csp_strdup(yaml->name, r->key, &entry->key));
    yaml->count++;
    *out = entry;
    return CSP_OK;
}

static csp_status add_value(const reader *r, csp_yaml_entry *entry, const yaml_event_t *scalar)
{
    CSP_TRY(check_no_nul(r, scalar));
    if ((entry->count & (entry->count - 1)) == 0) { /* room doubles: for 1, 2, 4, 8, ... */
        const int64_t room = entry->count > 0 ? 2 * entry->count : 1;

        CSP_TRY(csp_realloc(r->yaml->name, room, sizeof(*entry->values), &entry->values));
    }
    CSP_TRY(csp_strdup(r->yaml->name, (const char *)scalar->data.scalar.value,
                       &entry->values[entry->count]));
    entry->count++;
    return CSP_OK;
}

static bool is_null(const yaml_event_t *scalar)
{
    const char *text = (const char *)scalar->data.scalar.value;

    return scalar->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (text[0] == '\0' || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

/* The items of a list whose start event was read. */
static csp_status read_list(reader *r, int64_t line)
{
    csp_yaml_entry *entry = NULL;
    csp_status status = CSP_OK;

    CSP_TRY(add_entry(r, line, CSP_YAML_LIST, &entry));
    for (bool more = true; more && status == CSP_OK;) {
        yaml_event_t event;

        CSP_TRY(next_event(r, &event));
        if (event.type == YAML_SCALAR_EVENT) {
            status = add_value(r, entry, &event);
        } else if (event.type == YAML_SEQUENCE_END_EVENT) {
            more = false;
        } else {
            status = CSP_FAIL(CSP_ERR_CONFIG, "%s:%zu: %s: a list holds single values",
                              r->yaml->name, event.start_mark.line + 1, r->key);
        }
        yaml_event_delete(&event);
    }
    return status;
}

static csp_status read_map(reader *r, int64_t line, int depth);

/* The value that follows a key of line. */
static csp_status read_value(reader *r, int64_t line, int depth)
{
    csp_yaml_entry *entry = NULL;
    yaml_event_t event;
    csp_status status = CSP_OK;

    CSP_TRY(next_event(r, &event));
    if (event.type == YAML_SCALAR_EVENT) {
        const bool null = is_null(&event);

        status = add_entry(r, line, null ? CSP_YAML_NULL : CSP_YAML_TEXT, &entry);
        if (status == CSP_OK && !null) {
            status = add_value(r, entry, &event);
        }
    } else if (event.type == YAML_SEQUENCE_START_EVENT) {
        status = read_list(r, line);
    } else {
        status = read_map(r, line, depth + 1);
    }
    yaml_event_delete(&event);
    return status;
}

/* Appends ".key" to the dotted key; the caller cuts it off again. */
static csp_status push_key(reader *r, const yaml_event_t *event)
{
    const size_t used = strlen(r->key);
    const char *name = r->yaml->name;
    const size_t line = event->start_mark.line + 1;

    if (event->type != YAML_SCALAR_EVENT) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s:%zu: a key must be a plain word", name, line);
    }
    CSP_TRY(check_no_nul(r, event));
    if (event->data.scalar.length == 0) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s:%zu: a key is missing before ':'", name, line);
    }
    if (used + event->data.scalar.length + 2 > sizeof(r->key)) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s:%zu: a key of more than %d bytes", name, line,
                        KEY_BYTES - 2);
    }
    snprintf(r->key + used, sizeof(r->key) - used, "%s%s", used > 0 ? "." : "",
             (const char *)event->data.scalar.value);
    return CSP_OK;
}

/* The pairs of a mapping whose start event was read. */
static csp_status read_map(reader *r, int64_t line, int depth)
{
    const size_t used = strlen(r->key);
    csp_yaml_entry *entry = NULL;
    int64_t pairs = 0;

    if (depth > DEPTH_LIMIT) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s:%lld: more than %d levels", r->yaml->name,
                        (long long)line, DEPTH_LIMIT);
    }
    for (;; pairs++) {
        yaml_event_t event;
        csp_status status;
        bool end;
        int64_t key_line;

        CSP_TRY(next_event(r, &event));
        end = event.type == YAML_MAPPING_END_EVENT;
        key_line = (int64_t)event.start_mark.line + 1;
        status = end ? CSP_OK : push_key(r, &event);
        yaml_event_delete(&event);
        CSP_TRY(status);
        if (end) {
            break;
        }
        CSP_TRY(read_value(r, key_line, depth));
        r->key[used] = '\0';
    }
    if (pairs == 0 && used > 0) {
        CSP_TRY(add_entry(r, line, CSP_YAML_EMPTY_MAP, &entry));
    }
    return CSP_OK;
}

/* One document that is a mapping or nothing at all. */
static csp_status read_stream(reader *r)
{
    int documents = 0;

    for (bool more = true; more;) {
        yaml_event_t event;
        csp_status status = CSP_OK;
        const char *name = r->yaml->name;
        size_t line;

        CSP_TRY(next_event(r, &event));
        line = event.start_mark.line + 1;
        if (event.type == YAML_STREAM_END_EVENT) {
            more = false;
        } else if (event.type == YAML_DOCUMENT_START_EVENT && documents++ > 0) {
            status = CSP_FAIL(CSP_ERR_CONFIG, "%s:%zu: a second document begins here", name, line);
        } else if (event.type == YAML_MAPPING_START_EVENT) {
            status = read_map(r, (int64_t)line, 1);
        } else if (event.type == YAML_SEQUENCE_START_EVENT ||
                   (event.type == YAML_SCALAR_EVENT && !is_null(&event))) {
            status = CSP_FAIL(CSP_ERR_CONFIG, "%s:%zu: \"section:\" is expected", name, line);
        }
        yaml_event_delete(&event);
        CSP_TRY(status);
    }
    return CSP_OK;
}

csp_status csp_yaml_parse(const char *name, const char *text, size_t bytes, csp_yaml **out)
{
    reader r = { 0 };
    csp_status status;

    if (!yaml_parser_initialize(&r.parser)) {
        return CSP_FAIL(CSP_ERR_MEMORY, "%s: no memory to read it", name);
    }
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    if (bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) {
        text += 3; /* libyaml counts a byte order mark as a column, so that sections do not align */
        bytes -= 3;
    }
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, bytes);
    CSP_TRY_GOTO(csp_alloc_zero(name, 1, sizeof(*r.yaml), &r.yaml));
    CSP_TRY_GOTO(csp_strdup(name, name, &r.yaml->name));
    CSP_TRY_GOTO(read_stream(&r));
    yaml_parser_delete(&r.parser);
    *out = r.yaml;
    return CSP_OK;

fail:
    yaml_parser_delete(&r.parser);
    csp_yaml_free(r.yaml);
    return status;
}

csp_status csp_yaml_read(const char *path, csp_yaml **out)
{
    FILE *stream = fopen(path, "rb");
    char *text = NULL;
    size_t bytes;
    csp_status status;

    if (stream == NULL) {
        return CSP_FAIL(CSP_ERR_IO, "%s: %s", path, strerror(errno));
    }
    CSP_TRY_GOTO(csp_alloc(path, FILE_LIMIT + 1, 1, &text));
    errno = 0;
    bytes = fread(text, 1, FILE_LIMIT + 1, stream);
    if (ferror(stream)) {
        status = CSP_FAIL(CSP_ERR_IO, "%s: %s", path, strerror(errno));
        goto fail;
    }
    if (bytes > FILE_LIMIT) {
        status = CSP_FAIL(CSP_ERR_CONFIG, "%s: larger than %d bytes, no config", path, FILE_LIMIT);
        goto fail;
    }
    status = csp_yaml_parse(path, text, bytes, out);

fail:
    free(text);
    fclose(stream);
    return status;
}

void csp_yaml_free(csp_yaml *yaml)
{
    if (yaml == NULL) {
        return;
    }
    for (int64_t i = 0; i < yaml->count; i++) {
        for (int64_t k = 0; k < yaml->entries[i].count; k++) {
            free(yaml->entries[i].values[k]);
        }
        free(yaml->entries[i].values);
        free(yaml->entries[i].key);
    }
    free(yaml->entries);
    free(yaml->name);
    free(yaml);
}
