/* test_config.c - resolving configs: order of sources, errors, round trips, hash and comparison. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/config.h"
#include "config/suggest.h"
#include "core/fault.h"

static char folder[] = "/tmp/csplade-config-XXXXXX";

/* Writes folder/name; returns its path, valid until the eighth next call. */
static const char *put(const char *name, const char *text)
{
    static char paths[8][256];
    static int turn;
    char *path = paths[turn++ % 8];
    FILE *stream;

    snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
    stream = fopen(path, "w");
    assert_non_null(stream);
    fputs(text, stream);
    fclose(stream);
    return path;
}

static csp_config *parse(const char *text)
{
    csp_config *config = NULL;

    if (csp_config_parse("t.yaml", text, &config) != CSP_OK) {
        fail_msg("%s", csp_error_text());
    }
    return config;
}

static void refuses(const char *text, const char *message)
{
    csp_config *config = NULL;

    assert_int_equal(csp_config_parse("t.yaml", text, &config), CSP_ERR_CONFIG);
    assert_null(config);
    if (strstr(csp_error_text(), message) == NULL) {
        fail_msg("\"%s\" is not in \"%s\"", message, csp_error_text());
    }
}

static void refuses_override(const char *override, const char *message)
{
    csp_config *config = NULL;

    assert_int_equal(csp_config_load(NULL, &override, 1, &config), CSP_ERR_CONFIG);
    assert_null(config);
    if (strstr(csp_error_text(), message) == NULL) {
        fail_msg("\"%s\" is not in \"%s\"", message, csp_error_text());
    }
}

static void standards_are_the_published_recipe(void **state)
{
    csp_config *c = parse("");

    (void)state;
    assert_int_equal(c->model.variant, 0);
    assert_string_equal(c->model.query_prefix, "query: ");
    assert_string_equal(c->model.passage_prefix, "passage: ");
    assert_int_equal(c->model.query_max_len, 192);
    assert_int_equal(c->model.passage_max_len, 192);
    assert_false(c->model.add_bos);
    assert_int_equal(c->model.exclude_ids.count, 0);
    assert_true(c->model.quant_scale == 100.0);
    assert_int_equal(c->data.train_group_size, 16);
    assert_true(c->contrastive.temperature == 1.0);
    assert_true(c->contrastive.lambda_q == 1e-3 && c->contrastive.lambda_d == 1e-3);
    assert_true(c->contrastive.mask_known_positives);
    assert_int_equal(c->contrastive.ramp_steps, 3333);
    assert_true(c->optim.learning_rate == 2e-5);
    assert_true(c->optim.adam_beta1 == 0.9 && c->optim.adam_beta2 == 0.999);
    assert_true(c->optim.adam_epsilon == 1e-8 && c->optim.max_grad_norm == 1.0);
    assert_true(c->optim.warmup_ratio == 0.05 && c->optim.weight_decay == 0.0);
    assert_int_equal(c->optim.lr_scheduler_type, 1);
    assert_false(c->lora.enabled);
    assert_int_equal(c->lora.target_modules.count, 7);
    assert_string_equal(c->lora.target_modules.values[6], "down_proj");
    assert_int_equal(c->run.phases.count, 2);
    assert_null(c->model.path);
    csp_config_free(c);
}

static void lora_is_on_where_its_section_is(void **state)
{
    static const struct {
        const char *text;
        bool enabled;
        double rate;
    } cases[] = {
        { "", false, 2e-5 },
        { "lora: {}\n", true, 1e-4 },
        { "lora:\n  alpha: 64\n", true, 1e-4 },
        { "lora:\n  r: 0\n", false, 2e-5 },
        { "lora: {}\noptim:\n  learning_rate: 0.5\n", true, 0.5 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        csp_config *c = parse(cases[i].text);

        assert_int_equal(c->lora.enabled, cases[i].enabled);
        assert_true(c->contrastive.optim.learning_rate == cases[i].rate);
        csp_config_free(c);
    }
}

static void a_phase_inherits_and_overrides(void **state)
{
    csp_config *c = parse("optim: {learning_rate: 0.01, weight_decay: 0.5}\n"
                          "batch: {queries: 8}\n"
                          "adapt: {optim: {learning_rate: 0.02}}\n"
                          "contrastive: {batch: {queries: 16}, optim: {learning_rate: null}}\n");

    (void)state;
    assert_true(c->adapt.optim.learning_rate == 0.02);
    assert_true(c->adapt.optim.weight_decay == 0.5);
    assert_true(c->contrastive.optim.learning_rate == 0.01);
    assert_int_equal(c->adapt.batch.queries, 8);
    assert_int_equal(c->contrastive.batch.queries, 16);
    csp_config_free(c);
}

static void later_sources_win_and_their_origin_is_printed(void **state)
{
    const char *overrides[] = { "contrastive.lambda_d=3", "data.text=[x.txt, 'y, z.txt']",
                                "model.query_prefix=say: " };
    csp_config *c = NULL;
    char *text = NULL, line[512];
    const char *path;

    (void)state;
    put("a.yaml", "contrastive:\n  lambda_q: 1\n  lambda_d: 1\n  temperature: 7\n");
    put("b.yaml", "extends: a.yaml\ncontrastive:\n  lambda_q: 2\n  lambda_d: 2\n");
    path = put("c.yaml", "extends: b.yaml\ncontrastive:\n  lambda_q: 4\n");
    assert_int_equal(csp_config_load(path, overrides, 3, &c), CSP_OK);
    assert_true(c->contrastive.lambda_q == 4.0);
    assert_true(c->contrastive.lambda_d == 3.0);
    assert_true(c->contrastive.temperature == 7.0);
    assert_int_equal(c->data.text.count, 2);
    assert_string_equal(c->data.text.values[1], "y, z.txt");
    assert_string_equal(c->model.query_prefix, "say: ");
    assert_int_equal(csp_config_dump(c, false, &text), CSP_OK);
    snprintf(line, sizeof(line), "# %s:3\n", path);
    assert_non_null(strstr(text, line));
    snprintf(line, sizeof(line), "# %s/a.yaml:4\n", folder);
    assert_non_null(strstr(text, line));
    assert_non_null(strstr(text, "# --set\n"));
    free(text);
    csp_config_free(c);
}

static void extends_refuses_cycles_and_missing_files(void **state)
{
    csp_config *c = NULL;
    const char *path;

    (void)state;
    put("x.yaml", "extends: y.yaml\n");
    path = put("y.yaml", "run: {seed: 1}\nextends: x.yaml\n");
    assert_int_equal(csp_config_load(path, NULL, 0, &c), CSP_ERR_CONFIG);
    assert_non_null(strstr(csp_error_text(), "x.yaml:1"));
    assert_non_null(strstr(csp_error_text(), "again"));
    path = put("self.yaml", "extends: ./self.yaml\n");
    assert_int_equal(csp_config_load(path, NULL, 0, &c), CSP_ERR_CONFIG);
    path = put("lost.yaml", "\nextends: nowhere.yaml\n");
    assert_int_equal(csp_config_load(path, NULL, 0, &c), CSP_ERR_CONFIG);
    assert_non_null(strstr(csp_error_text(), "lost.yaml:2: extends"));
    assert_non_null(strstr(csp_error_text(), "No such file"));
    path = put("list.yaml", "extends: [a.yaml]\n");
    assert_int_equal(csp_config_load(path, NULL, 0, &c), CSP_ERR_CONFIG);
    assert_int_equal(csp_config_load("/nowhere.yaml", NULL, 0, &c), CSP_ERR_IO);
    assert_null(c);
    refuses("extends: a.yaml\n", "extends has no place");
}

static void unknown_keys_name_file_line_and_the_nearest(void **state)
{
    (void)state;
    refuses("contrastive:\n  ramp_step: 3\n",
            "t.yaml:2: contrastive.ramp_step: no such setting (did you mean ramp_steps?)");
    refuses("contrastve:\n  lambda_q: 3\n", "(did you mean contrastive.lambda_q?)");
    refuses("learning_rate: 3\n", "(did you mean optim.learning_rate?)");
    refuses("run:\n  max_steps: 3\n", "(did you mean adapt.max_steps or contrastive.max_steps?)");
    refuses("modle: {}\n", "t.yaml:1: modle: no such setting (did you mean model?)");
    refuses("contrastive:\n  optim:\n    learning_rat: 1\n", "did you mean learning_rate?");
    refuses("xyzzy: 1\n", "csplade config print lists all");
    refuses("contrastive:\n  xyzzy: 1\n", "t.yaml:2: contrastive.xyzzy: no such setting");
    refuses("q_flops_loss_factor: 1\n",
            "t.yaml:1: q_flops_loss_factor: csplade calls this contrastive.lambda_q");
    refuses("optim:\n  lr: 1\n", "csplade calls this optim.learning_rate");
    refuses("padding_side: left\n", "texts are packed and never padded");
}

static void bad_values_name_place_value_and_limit(void **state)
{
    (void)state;
    refuses("contrastive:\n  temperature: 0\n",
            "t.yaml:2: contrastive.temperature: 0 is below the minimum 0.0001");
    refuses("model: {query_max_len: 999999}\n", "999999 is above the maximum 262144 tokens");
    refuses("model: {query_max_len: 10.5}\n", "\"10.5\" is not a whole number");
    refuses("model: {query_max_len: }\nmodel.query_max_len: 3\n", "already set at line 1");
    refuses("model: {query_max_len: \"\"}\n", "is not a whole number");
    refuses("model: {query_max_len: 0x10}\n", "is not a whole number");
    refuses("model: {query_max_len: 99999999999999999999}\n", "above the maximum");
    refuses("model: {query_max_len: [1, 2]}\n", "one value is expected");
    refuses("model: {query_max_len: {}}\n", "a value is expected");
    refuses("optim: {learning_rate: nan}\n", "is not a number");
    refuses("optim: {learning_rate: 1e999}\n", "above the maximum");
    refuses("optim: {learning_rate: -1}\n", "below the minimum");
    refuses("model: {variant: bidi}\n", "\"bidi\" is not one of causal|echo|bi");
    refuses("model: {variant: \"causal|echo\"}\n", "is not one of");
    refuses("model: {add_bos: yes}\n", "neither true nor false");
    refuses("run: {phases: [adapt, adapt]}\n", "named twice");
    refuses("run: {phases: [adapt, tune]}\n", "\"tune\" is not one of adapt|contrastive");
    refuses("model: {exclude_ids: [1, -2]}\n", "-2 is below the minimum 0");
    refuses("lora: true\n", "a section, not a value");
    refuses("lora:\n", "nothing below it");
    refuses("lora: {target_modules: [q]}\n", "is not one of q_proj|");
    refuses_override("contrastive.temperature=0",
                     "--set contrastive.temperature=0: 0 is below the minimum 0.0001");
    refuses_override("contrastive.temperature", "section.key=value is expected");
    refuses_override("=1", "section.key=value is expected");
    refuses_override("extends=x.yaml", "belongs into a file");
    refuses_override("data.text=[a", "--set data.text=[a");
    refuses_override("data.text=[a]\nrun: {seed: 3}", "a list is written [a, b]");
}

static void dumps_read_back_to_the_same_config(void **state)
{
    static const char *const texts[] = {
        "",
        "lora: {r: 8}\n",
        "lora: {r: 0}\nmodel: {path: \"a \\\"b\\\\c\\n\\x01\\u00e9\", query_prefix: ''}\n",
        "adapt: {optim: {learning_rate: 0.1, adam_beta2: 0.95}, batch: {texts: 3}}\n"
        "run: {phases: [contrastive], seed: 7, output_dir: o}\nmodel: {exclude_ids: [3, 1]}\n",
        "contrastive: {lambda_q: 3.3333333333333335e-05, ramp_steps: 0}\n"
        "data: {text: ['a: b', \"c#d\", 'null']}\n",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        for (int explain = 0; explain < 2; explain++) {
            csp_config *one = parse(texts[i]), *two;
            char *first = NULL, *second = NULL, *a = NULL, *b = NULL;

            assert_int_equal(csp_config_dump(one, explain != 0, &first), CSP_OK);
            two = parse(first);
            assert_int_equal(csp_config_dump(two, false, &second), CSP_OK);
            assert_int_equal(csp_config_meaning(one, &a), CSP_OK);
            assert_int_equal(csp_config_meaning(two, &b), CSP_OK);
            assert_string_equal(a, b);
            free(first);
            free(second);
            free(a);
            free(b);
            csp_config_free(one);
            csp_config_free(two);
        }
    }
}

static uint64_t hash_of(const char *text)
{
    csp_config *c = parse(text);
    uint64_t hash = 0;

    assert_int_equal(csp_config_hash(c, &hash), CSP_OK);
    csp_config_free(c);
    return hash;
}

static void the_hash_sees_what_decides_the_result(void **state)
{
    const uint64_t base = hash_of("");

    (void)state;
    assert_true(base == hash_of("contrastive: {lambda_q: 0.001}\n"));
    assert_true(base == hash_of("contrastive: {lambda_q: 1e-3, ramp_steps: 3333}\n"));
    assert_true(base ==
                hash_of("run: {output_dir: elsewhere, save_steps: 7}\ndevice: {threads: 3}\n"));
    assert_true(base == hash_of("lora: {r: 0}\n"));
    assert_true(base != hash_of("lora: {}\n"));
    assert_true(base != hash_of("contrastive: {lambda_q: 0.002}\n"));
    assert_true(base != hash_of("run: {seed: 43}\n"));
    assert_true(base != hash_of("optim: {learning_rate: 1}\n"));
    assert_true(base != hash_of("adapt: {max_steps: 3}\n"));
    assert_true(hash_of("run: {phases: [contrastive]}\n") ==
                hash_of("run: {phases: [contrastive]}\nadapt: {max_steps: 3}\n"));
}

static void a_meaning_reads_back_and_differences_are_named(void **state)
{
    csp_config *here =
        parse("lora: {r: 8}\nmodel: {path: m}\nadapt: {optim: {weight_decay: 0.5}}\n");
    csp_config *there = parse("lora: {r: 8}\nmodel: {path: m}\ncontrastive: {lambda_d: 5}\n");
    csp_config *full = parse(""), *again;
    char *text = NULL, difference[256];

    (void)state;
    assert_int_equal(csp_config_meaning(here, &text), CSP_OK);
    again = parse(text);
    assert_int_equal(csp_config_compare(again, here, difference, sizeof(difference)), CSP_OK);
    assert_string_equal(difference, "");
    assert_int_equal(csp_config_compare(there, here, difference, sizeof(difference)), CSP_OK);
    assert_string_equal(difference, "adapt.optim.weight_decay is 0 there and 0.5 here");
    assert_int_equal(csp_config_compare(full, here, difference, sizeof(difference)), CSP_OK);
    assert_string_equal(difference, "model.path is null there and \"m\" here");
    free(text);
    csp_config_free(here);
    csp_config_free(there);
    csp_config_free(full);
    csp_config_free(again);
}

static void validation_sees_what_belongs_together(void **state)
{
#define GOOD "model: {path: m}\nrun: {output_dir: o}\ndata: {corpus: c, qrels: q}\n"
    static const struct {
        const char *text;
        csp_status status;
        const char *message;
    } cases[] = {
        { GOOD, CSP_OK, "" },
        { "run: {output_dir: o}\n", CSP_ERR_CONFIG, "model.path is required" },
        { "model: {path: m}\n", CSP_ERR_CONFIG, "run.output_dir is required" },
        { GOOD "run.phases: []\n", CSP_ERR_CONFIG, "run.phases is empty" },
        { GOOD "run.phases: [contrastive, adapt]\n", CSP_ERR_CONFIG, "adapt comes before" },
        { "model: {path: m}\nrun: {output_dir: o, phases: [adapt]}\n", CSP_ERR_CONFIG,
          "neither data.text nor data.corpus" },
        { "model: {path: m}\nrun: {output_dir: o, phases: [contrastive]}\n", CSP_ERR_CONFIG,
          "neither data.train nor" },
        { "model: {path: m}\nrun: {output_dir: o, phases: [contrastive]}\ndata: {corpus: "
          "c.jsonl.gz}\n",
          CSP_ERR_CONFIG, "neither data.train nor" },
        { "model: {path: m}\nrun: {output_dir: o, phases: [contrastive]}\ndata: {corpus: c}\n",
          CSP_OK, "" },
        { GOOD "data.train: t\n", CSP_ERR_CONFIG, "data.train has its own" },
        { GOOD "data.train: t.tsv.gz\n", CSP_OK, "" },
        { GOOD "run.eval_steps: 5\n", CSP_ERR_CONFIG, "run.eval_steps is 5" },
        { GOOD "run.eval_steps: 5\ndata.dev_qrels: d\n", CSP_OK, "" },
        { GOOD "batch: {micro_batch_tokens: 191}\nadapt: {max_len: 10}\n", CSP_ERR_CONFIG,
          "one text may have 192 tokens" },
        { GOOD "contrastive: {batch: {micro_batch_tokens: 192}}\nmodel.variant: echo\n",
          CSP_ERR_CONFIG, "one text may have 384 tokens" },
        { GOOD "adapt: {batch: {micro_batch_tokens: 500}}\n", CSP_ERR_CONFIG,
          "adapt.batch.micro_batch_tokens is 500" },
        { GOOD "lora: {target_modules: []}\n", CSP_ERR_CONFIG, "nothing would be trained" },
        { GOOD "device: {name: cpu, precision: bf16}\n", CSP_ERR_UNSUPPORTED, "fp32 only" },
        { GOOD "device: {precision: bf16}\n", CSP_OK, "" },
        { GOOD "device: {name: cuda, precision: bf16}\n", CSP_OK, "" },
        { GOOD "device: {name: 'cuda:12', precision: bf16}\n", CSP_OK, "" },
        { GOOD "device: {name: 'cuda:'}\n", CSP_ERR_CONFIG, "device.name cuda:: no such device" },
        { GOOD "device: {name: 'cuda:1x'}\n", CSP_ERR_CONFIG, "cuda:1x: no such device" },
        { GOOD "device: {name: gpu}\n", CSP_ERR_CONFIG, "(auto, cpu, cuda, cuda:N)" },
    };
#undef GOOD

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        csp_config *c = parse(cases[i].text);

        assert_int_equal(csp_config_validate(c), cases[i].status);
        if (cases[i].status != CSP_OK && strstr(csp_error_text(), cases[i].message) == NULL) {
            fail_msg("\"%s\" is not in \"%s\"", cases[i].message, csp_error_text());
        }
        csp_config_free(c);
    }
}

static void every_row_is_sound(void **state)
{
    (void)state;
    for (int s = 0; s < csp_section_count; s++) {
        for (int f = 0; f < csp_sections[s].count; f++) {
            const csp_field *field = &csp_sections[s].fields[f];

            assert_true(field->min <= field->max);
            assert_true((field->kind == CSP_FIELD_ENUM) <= (field->choices != NULL));
            assert_true(field->kind == CSP_FIELD_TEXT || field->standard != NULL);
            assert_true(field->help[0] != '\0' && field->help[strlen(field->help) - 1] != '.');
            for (int k = 0; k < f; k++) {
                assert_string_not_equal(field->key, csp_sections[s].fields[k].key);
            }
        }
    }
    for (int i = 0; i < csp_setting_alias_count; i++) {
        const char *ours = csp_setting_aliases[i].ours;
        const char *override[1];
        char text[128];
        csp_config *c = NULL;

        if (ours != NULL) {
            snprintf(text, sizeof(text), "%s=null", ours);
            override[0] = text;
            assert_int_equal(csp_config_load(NULL, override, 1, &c), CSP_OK);
            csp_config_free(c);
        }
    }
}

static void edit_distance_counts_edits(void **state)
{
    (void)state;
    assert_int_equal(csp_edit_distance("", ""), 0);
    assert_int_equal(csp_edit_distance("abc", "abc"), 0);
    assert_int_equal(csp_edit_distance("abc", ""), 3);
    assert_int_equal(csp_edit_distance("kitten", "sitting"), 3);
    assert_int_equal(csp_edit_distance("form", "from"), 1);
    assert_int_equal(csp_edit_distance("top-k", "top_K"), 0);
}

static void every_allocation_may_fail(void **state)
{
    static const char *const overrides[] = { "data.text=[a, b]", "lora.r=4",
                                             "model.exclude_ids=[1, 2]" };
    const char *path =
        put("fault.yaml", "extends: a.yaml\nmodel: {path: x}\noptim: {weight_decay: 1}\n");
    csp_config *config = NULL;
    csp_status status = CSP_ERR_MEMORY;

    (void)state;
    put("a.yaml", "contrastive:\n  lambda_q: 1\n");
    for (long n = 1; status != CSP_OK; n++) {
        csp_fault_arm(n);
        status = csp_config_load(path, overrides, 3, &config);
        csp_fault_arm(0);
        if (status != CSP_OK) {
            assert_int_equal(status, CSP_ERR_MEMORY);
            assert_null(config);
        }
        assert_true(n < 100000);
    }
    csp_config_free(config);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) != NULL ? 0 : -1;
}

static int remove_folder(void **state)
{
    static const char *const names[] = { "a", "b", "c", "x", "y", "self", "lost", "list", "fault" };
    char path[256];

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s.yaml", folder, names[i]);
        unlink(path);
    }
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(standards_are_the_published_recipe),
        cmocka_unit_test(lora_is_on_where_its_section_is),
        cmocka_unit_test(a_phase_inherits_and_overrides),
        cmocka_unit_test(later_sources_win_and_their_origin_is_printed),
        cmocka_unit_test(extends_refuses_cycles_and_missing_files),
        cmocka_unit_test(unknown_keys_name_file_line_and_the_nearest),
        cmocka_unit_test(bad_values_name_place_value_and_limit),
        cmocka_unit_test(dumps_read_back_to_the_same_config),
        cmocka_unit_test(the_hash_sees_what_decides_the_result),
        cmocka_unit_test(a_meaning_reads_back_and_differences_are_named),
        cmocka_unit_test(validation_sees_what_belongs_together),
        cmocka_unit_test(every_row_is_sound),
        cmocka_unit_test(edit_distance_counts_edits),
        cmocka_unit_test(every_allocation_may_fail),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
