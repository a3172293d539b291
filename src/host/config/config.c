/* config.c - from files and overrides to the structs of settings.h. */
#include "config/config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/origin.h"
#include "config/suggest.h"
#include "config/yaml.h"
#include "core/memory.h"

enum { EXTENDS_LIMIT = 16, WHERE_BYTES = 512, NAME_BYTES = 256 };

/* The files between the one being read and the one that was asked for. */
typedef struct chain {
    dev_t device;
    ino_t inode;
    const char *path;
    const struct chain *below;
    int depth;
} chain;

void *csp_section_object(const csp_section *section, csp_config *config)
{
    return (char *)config + section->offset;
}

const void *csp_section_object_const(const csp_section *section, const csp_config *config)
{
    return (const char *)config + section->offset;
}

int csp_origin_first(int section)
{
    int first = 0;

    for (int s = 0; s < section; s++) {
        first += csp_sections[s].count;
    }
    return first;
}

bool csp_section_is_set(const csp_config *config, int section)
{
    const csp_origin *origins = config->origins + csp_origin_first(section);

    for (int f = 0; f < csp_sections[section].count; f++) {
        if (origins[f].is_set) {
            return true;
        }
    }
    return csp_sections[section].optional && config->lora.enabled;
}

bool csp_section_is_inherited(const csp_section *section)
{
    for (int s = 0; s < csp_section_count; s++) {
        if (csp_sections[s].inherits != NULL &&
            strcmp(csp_sections[s].inherits, section->name) == 0) {
            return true;
        }
    }
    return false;
}

/* The row of a dotted key: *section and *field are -1 where there is none. */
static void find_setting(const char *key, int *section, int *field)
{
    *section = *field = -1;
    for (int s = 0; s < csp_section_count; s++) {
        const size_t bytes = strlen(csp_sections[s].name);

        if (strcmp(key, csp_sections[s].name) == 0) {
            *section = s;
            return;
        }
        if (strncmp(key, csp_sections[s].name, bytes) != 0 || key[bytes] != '.') {
            continue;
        }
        for (int f = 0; f < csp_sections[s].count; f++) {
            if (strcmp(key + bytes + 1, csp_sections[s].fields[f].key) == 0) {
                *section = s;
                *field = f;
                return;
            }
        }
    }
}

/* Refuses key because it is what another program calls one of our settings, if it is. */
static csp_status refuse_alias(const char *where, const char *last)
{
    for (int i = 0; i < csp_setting_alias_count; i++) {
        const csp_setting_alias *alias = &csp_setting_aliases[i];

        if (strcmp(alias->foreign, last) != 0) {
            continue;
        }
        if (alias->ours == NULL) {
            return CSP_FAIL(CSP_ERR_CONFIG, "%s: csplade has no such setting: %s", where,
                            alias->note);
        }
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: csplade calls this %s%s%s%s", where, alias->ours,
                        alias->note[0] != '\0' ? " (" : "", alias->note,
                        alias->note[0] != '\0' ? ")" : "");
    }
    return CSP_OK;
}

/* Where a setting of this very name is, "adapt.max_steps or contrastive.max_steps"; "" if nowhere.
 */
static void list_namesakes(const char *last, char *text, size_t bytes)
{
    size_t used = 0;

    text[0] = '\0';
    for (int s = 0; s < csp_section_count; s++) {
        for (int f = 0; f < csp_sections[s].count && csp_sections[s].inherits == NULL; f++) {
            if (strcmp(csp_sections[s].fields[f].key, last) == 0 && used < bytes) {
                const int more = snprintf(text + used, bytes - used, "%s%s.%s",
                                          used > 0 ? " or " : "", csp_sections[s].name, last);

                used += more > 0 ? (size_t)more : 0;
            }
        }
    }
}

/* The failure for a key that no row has. */
static csp_status refuse_unknown(const char *where, const char *key)
{
    const char *dot = strrchr(key, '.'), *last = dot != NULL ? dot + 1 : key;
    char namesakes[NAME_BYTES], section[NAME_BYTES];
    csp_suggest suggest;
    bool in_section = false;

    CSP_TRY(refuse_alias(where, last));
    snprintf(section, sizeof(section), "%.*s", dot != NULL ? (int)(dot - key) : 0, key);
    list_namesakes(last, namesakes, sizeof(namesakes));
    if (namesakes[0] != '\0') {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: no such setting (did you mean %s?)", where, namesakes);
    }
    csp_suggest_init(&suggest, last);
    for (int s = 0; s < csp_section_count; s++) {
        if (strcmp(csp_sections[s].name, section) == 0) {
            in_section = true;
            for (int f = 0; f < csp_sections[s].count; f++) {
                csp_suggest_offer(&suggest, csp_sections[s].fields[f].key);
            }
        }
    }
    if (suggest.best == NULL) {
        csp_suggest_init(&suggest, in_section || dot == NULL ? key : section);
        for (int s = 0; s < csp_section_count && !in_section; s++) {
            csp_suggest_offer(&suggest, csp_sections[s].name);
        }
        for (int s = 0; s < csp_section_count && dot == NULL; s++) {
            for (int f = 0; f < csp_sections[s].count; f++) {
                csp_suggest_offer(&suggest, csp_sections[s].fields[f].key);
            }
        }
    }
    if (suggest.best != NULL) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: no such setting (did you mean %s?)", where,
                        suggest.best);
    }
    return CSP_FAIL(CSP_ERR_CONFIG, "%s: no such setting (csplade config print lists all)", where);
}

static csp_status refuse_section_value(const csp_section *section, csp_yaml_kind kind,
                                       const char *where)
{
    if (kind == CSP_YAML_NULL) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "%s: nothing below it; write \"%s: {}\" for its standard values, or leave "
                        "the line out",
                        where, section->name);
    }
    return CSP_FAIL(CSP_ERR_CONFIG, "%s: a section, not a value: its settings go below it", where);
}

/*
 * Gives the setting `key` a value. place is its origin, where begins error texts.
 */
static csp_status apply_value(csp_config *config, const char *key, csp_yaml_kind kind,
                              char *const *values, int64_t count, const char *place,
                              const char *where)
{
    const csp_field *field;
    csp_origin *origin;
    void *object;
    char *copy = NULL;
    int s, f;

    find_setting(key, &s, &f);
    if (s < 0) {
        return refuse_unknown(where, key);
    }
    if (f < 0) {
        /* A section whose lines are all comments reads as null: harmless where none is optional. */
        if (kind == CSP_YAML_EMPTY_MAP || (kind == CSP_YAML_NULL && !csp_sections[s].optional)) {
            config->lora.enabled = config->lora.enabled || csp_sections[s].optional;
            return CSP_OK;
        }
        return refuse_section_value(&csp_sections[s], kind, where);
    }
    field = &csp_sections[s].fields[f];
    object = csp_section_object(&csp_sections[s], config);
    origin = &config->origins[csp_origin_first(s) + f];
    if (kind == CSP_YAML_EMPTY_MAP) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: a value is expected, not {}", where);
    }
    CSP_TRY(csp_strdup("config", place, &copy));
    free(origin->place);
    origin->place = copy;
    origin->is_set = kind != CSP_YAML_NULL || csp_sections[s].inherits == NULL;
    config->lora.enabled = config->lora.enabled || csp_sections[s].optional;
    if (kind == CSP_YAML_NULL) {
        return csp_field_set_standard(field, object);
    }
    return csp_field_set(field, object, (const char *const *)values, count, where);
}

static csp_status apply_file(csp_config *config, const csp_yaml *yaml)
{
    for (int64_t i = 0; i < yaml->count; i++) {
        const csp_yaml_entry *entry = &yaml->entries[i];
        char place[WHERE_BYTES], where[WHERE_BYTES];

        if (strcmp(entry->key, "extends") == 0) {
            continue;
        }
        snprintf(place, sizeof(place), "%s:%lld", yaml->name, (long long)entry->line);
        snprintf(where, sizeof(where), "%s:%lld: %s", yaml->name, (long long)entry->line,
                 entry->key);
        CSP_TRY(apply_value(config, entry->key, entry->kind, entry->values, entry->count, place,
                            where));
    }
    return CSP_OK;
}

static const csp_yaml_entry *find_extends(const csp_yaml *yaml)
{
    for (int64_t i = 0; i < yaml->count; i++) {
        if (strcmp(yaml->entries[i].key, "extends") == 0) {
            return &yaml->entries[i];
        }
    }
    return NULL;
}

/* The path of an `extends` line, relative to the folder of the file that has it. */
static csp_status extended_path(const csp_yaml *yaml, const csp_yaml_entry *entry, char **out)
{
    const char *slash = strrchr(yaml->name, '/');
    const size_t folder = slash != NULL ? (size_t)(slash - yaml->name) + 1 : 0;
    size_t bytes;

    if (entry->kind != CSP_YAML_TEXT || entry->values[0][0] == '\0') {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s:%lld: extends: the path of one file is expected",
                        yaml->name, (long long)entry->line);
    }
    if (entry->values[0][0] == '/') {
        return csp_strdup("config", entry->values[0], out);
    }
    bytes = strlen(entry->values[0]) + 1;
    CSP_TRY(csp_alloc("config", (int64_t)(folder + bytes), 1, out));
    memcpy(*out, yaml->name, folder);
    memcpy(*out + folder, entry->values[0], bytes);
    return CSP_OK;
}

static csp_status check_chain(const chain *here, const csp_yaml *yaml, int64_t line)
{
    for (const chain *c = here->below; c != NULL; c = c->below) {
        if (c->device == here->device && c->inode == here->inode) {
            return CSP_FAIL(CSP_ERR_CONFIG, "%s:%lld: extends %s, which extends this file again",
                            yaml->name, (long long)line, here->path);
        }
    }
    if (here->depth > EXTENDS_LIMIT) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s:%lld: more than %d files extend each other", yaml->name,
                        (long long)line, EXTENDS_LIMIT);
    }
    return CSP_OK;
}

/* Reads path and, before its values are applied, the files that it extends. */
static csp_status load_file(csp_config *config, const char *path, const chain *here)
{
    const csp_yaml_entry *extends;
    csp_yaml *yaml = NULL;
    char *base = NULL;
    csp_status status;

    CSP_TRY(csp_yaml_read(path, &yaml));
    extends = find_extends(yaml);
    if (extends != NULL) {
        chain next = { 0, 0, NULL, here, here->depth + 1 };
        struct stat info;

        CSP_TRY_GOTO(extended_path(yaml, extends, &base));
        next.path = base;
        if (stat(base, &info) != 0) {
            status = CSP_FAIL(CSP_ERR_CONFIG, "%s:%lld: extends %s: %s", yaml->name,
                              (long long)extends->line, base, strerror(errno));
            goto fail;
        }
        next.device = info.st_dev;
        next.inode = info.st_ino;
        CSP_TRY_GOTO(check_chain(&next, yaml, extends->line));
        CSP_TRY_GOTO(load_file(config, base, &next));
    }
    status = apply_file(config, yaml);

fail:
    free(base);
    csp_yaml_free(yaml);
    return status;
}

/* "[a, b]" to its values; where begins error texts. */
static csp_status parse_list(const char *text, const char *where, csp_yaml **out)
{
    char *line = NULL;
    const size_t bytes = strlen(text) + 4;
    csp_status status;

    CSP_TRY(csp_alloc(where, (int64_t)bytes, 1, &line));
    snprintf(line, bytes, "v: %s", text);
    status = csp_yaml_parse(where, line, bytes - 1, out);
    free(line);
    CSP_TRY(status);
    if ((*out)->count != 1 || (*out)->entries[0].kind != CSP_YAML_LIST) {
        csp_yaml_free(*out);
        *out = NULL;
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: a list is written [a, b]", where);
    }
    return CSP_OK;
}

static csp_status apply_override(csp_config *config, const char *text)
{
    const char *equals = strchr(text, '=');
    char where[WHERE_BYTES], key[NAME_BYTES], *value;
    csp_yaml *list = NULL;
    csp_yaml_kind kind;
    csp_status status;
    int s, f;

    snprintf(where, sizeof(where), "--set %.400s", text);
    if (equals == NULL || equals == text || (size_t)(equals - text) >= sizeof(key)) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: section.key=value is expected", where);
    }
    memcpy(key, text, (size_t)(equals - text));
    key[equals - text] = '\0';
    value = (char *)equals + 1;
    if (strcmp(key, "extends") == 0) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: extends belongs into a file", where);
    }
    find_setting(key, &s, &f);
    if (f >= 0 && csp_field_is_list(&csp_sections[s].fields[f]) && value[0] == '[') {
        CSP_TRY(parse_list(value, where, &list));
        status = apply_value(config, key, CSP_YAML_LIST, list->entries[0].values,
                             list->entries[0].count, "--set", where);
        csp_yaml_free(list);
        return status;
    }
    kind = strcmp(value, "{}") == 0     ? CSP_YAML_EMPTY_MAP
           : strcmp(value, "null") == 0 ? CSP_YAML_NULL
                                        : CSP_YAML_TEXT;
    return apply_value(config, key, kind, &value, 1, "--set", where);
}

/* A config with every setting at its standard. */
static csp_status create_standard(csp_config **out)
{
    csp_config *config = NULL;
    csp_status status;

    CSP_TRY(csp_alloc_zero("config", 1, sizeof(*config), &config));
    CSP_TRY_GOTO(csp_alloc_zero("config", csp_origin_first(csp_section_count),
                                sizeof(*config->origins), &config->origins));
    for (int s = 0; s < csp_section_count; s++) {
        for (int f = 0; f < csp_sections[s].count; f++) {
            CSP_TRY_GOTO(csp_field_set_standard(&csp_sections[s].fields[f],
                                                csp_section_object(&csp_sections[s], config)));
        }
    }
    *out = config;
    return CSP_OK;

fail:
    csp_config_free(config);
    return status;
}

csp_status csp_config_load(const char *path, const char *const *overrides, int count,
                           csp_config **out)
{
    csp_config *config = NULL;
    csp_status status;

    CSP_TRY(create_standard(&config));
    if (path != NULL) {
        chain here = { 0, 0, path, NULL, 0 };
        struct stat info;

        if (stat(path, &info) == 0) {
            here.device = info.st_dev;
            here.inode = info.st_ino;
        }
        CSP_TRY_GOTO(load_file(config, path, &here));
    }
    for (int i = 0; i < count; i++) {
        CSP_TRY_GOTO(apply_override(config, overrides[i]));
    }
    CSP_TRY_GOTO(csp_config_resolve(config));
    *out = config;
    return CSP_OK;

fail:
    csp_config_free(config);
    return status;
}

csp_status csp_config_parse(const char *name, const char *text, csp_config **out)
{
    csp_config *config = NULL;
    csp_yaml *yaml = NULL;
    const csp_yaml_entry *extends;
    csp_status status;

    CSP_TRY(csp_yaml_parse(name, text, strlen(text), &yaml));
    CSP_TRY_GOTO(create_standard(&config));
    extends = find_extends(yaml);
    if (extends != NULL) {
        status = CSP_FAIL(CSP_ERR_CONFIG, "%s:%lld: extends has no place in a resolved config",
                          name, (long long)extends->line);
        goto fail;
    }
    CSP_TRY_GOTO(apply_file(config, yaml));
    CSP_TRY_GOTO(csp_config_resolve(config));
    csp_yaml_free(yaml);
    *out = config;
    return CSP_OK;

fail:
    csp_yaml_free(yaml);
    csp_config_free(config);
    return status;
}

void csp_config_free(csp_config *config)
{
    if (config == NULL) {
        return;
    }
    for (int s = 0; s < csp_section_count; s++) {
        for (int f = 0; f < csp_sections[s].count; f++) {
            csp_field_clear(&csp_sections[s].fields[f],
                            csp_section_object(&csp_sections[s], config));
        }
    }
    for (int i = 0; config->origins != NULL && i < csp_origin_first(csp_section_count); i++) {
        free(config->origins[i].place);
        free(config->origins[i].text);
    }
    free(config->origins);
    free(config);
}
