/* test_yaml.c - what the YAML reader gives, and what it refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/yaml.h"
#include "core/fault.h"

static void flattens_sections_to_dotted_keys_with_lines(void **state)
{
    const char *text = "a:\n  b: 1\n  c:\n    d: \"x y\"\nlist: [p, 'q']\n"
                       "block:\n  - 1\n  - 2\nempty: {}\nnone:\ntilde: ~\nquoted: \"\"\n";
    static const struct {
        const char *key;
        int64_t line;
        csp_yaml_kind kind;
        int64_t count;
        const char *first;
    } want[] = {
        { "a.b", 2, CSP_YAML_TEXT, 1, "1" },       { "a.c.d", 4, CSP_YAML_TEXT, 1, "x y" },
        { "list", 5, CSP_YAML_LIST, 2, "p" },      { "block", 6, CSP_YAML_LIST, 2, "1" },
        { "empty", 9, CSP_YAML_EMPTY_MAP, 0, "" }, { "none", 10, CSP_YAML_NULL, 0, "" },
        { "tilde", 11, CSP_YAML_NULL, 0, "" },     { "quoted", 12, CSP_YAML_TEXT, 1, "" },
    };
    csp_yaml *yaml = NULL;

    (void)state;
    assert_int_equal(csp_yaml_parse("t.yaml", text, strlen(text), &yaml), CSP_OK);
    assert_int_equal(yaml->count, sizeof(want) / sizeof(want[0]));
    for (int64_t i = 0; i < yaml->count; i++) {
        const csp_yaml_entry *entry = &yaml->entries[i];

        assert_string_equal(entry->key, want[i].key);
        assert_int_equal(entry->line, want[i].line);
        assert_int_equal(entry->kind, want[i].kind);
        assert_int_equal(entry->count, want[i].count);
        if (entry->count > 0) {
            assert_string_equal(entry->values[0], want[i].first);
        }
    }
    csp_yaml_free(yaml);
}

/* As editors of Windows write them: a byte order mark in front, CR and LF behind every line. */
static void a_byte_order_mark_and_crlf_change_nothing(void **state)
{
    static const char text[] = "\xEF\xBB\xBF"
                               "a:\r\n  b: 1\r\n# word\r\nc:\r\n  d: x\r\n";
    csp_yaml *yaml = NULL;

    (void)state;
    assert_int_equal(csp_yaml_parse("t.yaml", text, sizeof(text) - 1, &yaml), CSP_OK);
    assert_int_equal(yaml->count, 2);
    assert_string_equal(yaml->entries[0].key, "a.b");
    assert_string_equal(yaml->entries[1].key, "c.d");
    assert_string_equal(yaml->entries[1].values[0], "x");
    assert_int_equal(yaml->entries[1].line, 5);
    csp_yaml_free(yaml);
}

static void refuses_what_a_config_has_no_use_for(void **state)
{
    static const struct {
        const char *text;
        const char *message;
    } bad[] = {
        { "a: 1\nb:\n  c: 2\na: 3\n", "t.yaml:4: a was already set at line 1" },
        { "b:\n  c: 2\nb.c: 3\n", "t.yaml:3: b.c was already set at line 2" },
        { "a: &x 1\n", "t.yaml:1: anchors" },
        { "a: 1\nb: *x\n", "t.yaml:2" },
        { "a: !!int 1\n", "t.yaml:1: tags" },
        { "a: [[1]]\n", "t.yaml:1: a: a list holds single values" },
        { "a:\n  - b: 1\n", "t.yaml:2: a: a list holds single values" },
        { "a: 1\n---\nb: 1\n", "t.yaml:2: a second document" },
        { "- 1\n", "t.yaml:1: \"section:\" is expected" },
        { "word\n", "t.yaml:1: \"section:\" is expected" },
        { "a: \"\\0\"\n", "t.yaml:1: a NUL byte" },
        { "a: 1\n\tb: 2\n", "t.yaml:2" },
        { "a: {b: {c: {d: {e: {f: {g: {h: {i: 1}}}}}}}}\n", "more than 8 levels" },
        { "? [a]\n: 1\n", "a key must be a plain word" },
        { "\"\": 1\n", "a key is missing" },
        { "a: \xff\n", "t.yaml: byte 3" },
        { "a: [1\n", "t.yaml:2" },
        { "<<: 1\n<<: 2\n", "already set" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        csp_yaml *yaml = NULL;

        assert_int_equal(csp_yaml_parse("t.yaml", bad[i].text, strlen(bad[i].text), &yaml),
                         CSP_ERR_CONFIG);
        assert_null(yaml);
        if (strstr(csp_error_text(), bad[i].message) == NULL) {
            fail_msg("\"%s\" is not in \"%s\"", bad[i].message, csp_error_text());
        }
    }
}

static void a_file_of_very_many_keys_or_values_takes_no_time(void **state)
{
    enum { KEYS = 100000, BYTES = 9 };
    char *text = malloc(KEYS * BYTES + 16);
    csp_yaml *yaml = NULL;

    (void)state;
    assert_non_null(text);
    for (size_t i = 0; i < KEYS; i++) {
        snprintf(text + i * BYTES, BYTES + 1, "k%05zu: \n", i);
    }
    assert_int_equal(csp_yaml_parse("t.yaml", text, KEYS * BYTES, &yaml), CSP_ERR_CONFIG);
    assert_string_equal(csp_error_text(), "t.yaml:4097: more than 4096 settings, no config");
    assert_null(yaml);
    memcpy(text, "v: [", 4);
    for (size_t i = 0; i < KEYS; i++) {
        memcpy(text + 4 + 2 * i, "a,", 2);
    }
    memcpy(text + 4 + 2 * KEYS, "b]\n", 3);
    assert_int_equal(csp_yaml_parse("t.yaml", text, 7 + 2 * KEYS, &yaml), CSP_OK);
    assert_int_equal(yaml->entries[0].count, KEYS + 1);
    assert_string_equal(yaml->entries[0].values[KEYS - 1], "a");
    assert_string_equal(yaml->entries[0].values[KEYS], "b");
    csp_yaml_free(yaml);
    free(text);
}

static void an_empty_file_is_an_empty_list(void **state)
{
    static const char *const texts[] = { "", "# only a comment\n", "---\n", "{}\n" };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        csp_yaml *yaml = NULL;

        assert_int_equal(csp_yaml_parse("t.yaml", texts[i], strlen(texts[i]), &yaml), CSP_OK);
        assert_int_equal(yaml->count, 0);
        csp_yaml_free(yaml);
    }
}

static void a_missing_file_a_folder_and_a_huge_file_are_refused(void **state)
{
    char path[] = "/tmp/csplade-yaml-XXXXXX";
    const int descriptor = mkstemp(path);
    FILE *stream = fdopen(descriptor, "w");
    csp_yaml *yaml = NULL;

    (void)state;
    assert_int_equal(csp_yaml_read("/nowhere/x.yaml", &yaml), CSP_ERR_IO);
    assert_non_null(strstr(csp_error_text(), "/nowhere/x.yaml: No such file"));
    assert_int_equal(csp_yaml_read("/tmp", &yaml), CSP_ERR_IO);
    assert_non_null(stream);
    for (int i = 0; i < (1 << 20) / 4 + 1; i++) {
        fputs("#  \n", stream);
    }
    fclose(stream);
    assert_int_equal(csp_yaml_read(path, &yaml), CSP_ERR_CONFIG);
    assert_non_null(strstr(csp_error_text(), "larger than"));
    assert_null(yaml);
    remove(path);
}

/* Every prefix and every one-byte change of a good file: an answer, never a crash. */
static void survives_truncated_and_damaged_files(void **state)
{
    static const char text[] =
        "a:\n  b: \"x\\u00e9\"  # c\n  c: [1, 'two', 3]\nd: {e: 1}\nf: |\n  g\n";
    char damaged[sizeof(text)];

    (void)state;
    for (size_t cut = 0; cut < sizeof(text); cut++) {
        csp_yaml *yaml = NULL;

        if (csp_yaml_parse("t", text, cut, &yaml) == CSP_OK) {
            csp_yaml_free(yaml);
        }
    }
    for (size_t at = 0; at + 1 < sizeof(text); at++) {
        for (int bit = 0; bit < 8; bit++) {
            csp_yaml *yaml = NULL;

            memcpy(damaged, text, sizeof(text));
            damaged[at] = (char)(damaged[at] ^ (1 << bit));
            if (csp_yaml_parse("t", damaged, sizeof(text) - 1, &yaml) == CSP_OK) {
                csp_yaml_free(yaml);
            }
        }
    }
}

static void every_allocation_may_fail(void **state)
{
    static const char text[] = "a:\n  b: 1\n  c: [1, 2]\nd: {}\n";
    csp_yaml *yaml = NULL;
    csp_status status = CSP_ERR_MEMORY;

    (void)state;
    for (long n = 1; status != CSP_OK; n++) {
        csp_fault_arm(n);
        status = csp_yaml_parse("t", text, sizeof(text) - 1, &yaml);
        csp_fault_arm(0);
        if (status != CSP_OK) {
            assert_int_equal(status, CSP_ERR_MEMORY);
            assert_null(yaml);
        }
        assert_true(n < 1000);
    }
    csp_yaml_free(yaml);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flattens_sections_to_dotted_keys_with_lines),
        cmocka_unit_test(a_byte_order_mark_and_crlf_change_nothing),
        cmocka_unit_test(refuses_what_a_config_has_no_use_for),
        cmocka_unit_test(a_file_of_very_many_keys_or_values_takes_no_time),
        cmocka_unit_test(an_empty_file_is_an_empty_list),
        cmocka_unit_test(a_missing_file_a_folder_and_a_huge_file_are_refused),
        cmocka_unit_test(survives_truncated_and_damaged_files),
        cmocka_unit_test(every_allocation_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
