/*
 * test_huggingface.c - folders for transformers and PEFT: every file, merged weights, refusals.
 * (That transformers and PEFT load them and agree is checked by scripts/check_model_export.py.)
 */
#include "model/fixture.h"

#include "export/huggingface.h"
#include "io/file.h"
#include "model/snapshot.h"

static const char tokenizer[] =
    "{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 1, \"content\": \"<s>\"},"
    " {\"id\": 2, \"content\": \"</s>\"}], \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0},"
    " \"merges\": []}}";

/* An export of llama_tied with its adapter under contract. */
static csp_huggingface opened(fixture *f, csp_contract *contract)
{
    csp_lora lora;
    char dir[600];

    snprintf(dir, sizeof(dir), "%s/adapter", fixture_dir("llama_tied"));
    assert_ok(csp_lora_config_read(dir, &lora, NULL));
    fixture_open(f, "llama_tied", &lora, dir, CSP_TRAIN_NONE);
    assert_ok(csp_contract_init(contract));
    contract->query_max_len = 20;
    contract->passage_max_len = 30;
    return (csp_huggingface) { .model = f->model,
                               .contract = contract,
                               .tokenizer = tokenizer,
                               .tokenizer_bytes = sizeof(tokenizer) - 1,
                               .dtype = CSP_F32 };
}

static void assert_file_is(const char *name, const char *text)
{
    size_t bytes;
    char *read = scratch_read(scratch_path(name), &bytes);

    assert_string_equal(read, text);
    free(read);
}

static void assert_file_has(const char *name, const char *part)
{
    size_t bytes;
    char *read = scratch_read(scratch_path(name), &bytes);

    if (strstr(read, part) == NULL) {
        print_error("%s lacks %s:\n%s\n", name, part, read);
    }
    assert_non_null(strstr(read, part));
    free(read);
}

/* The folder opens as a model whose weights are those of e with the adapters added. */
static void assert_opens_as_merged(const csp_huggingface *e, const char *folder)
{
    const csp_open_options options = { .train = CSP_TRAIN_NONE };
    const csp_params *from = e->model->params;
    char difference[256];
    csp_opened again;

    assert_ok(csp_snapshot_open(e->model->be, scratch_path(folder), &options, &again));
    assert_int_equal(again.model->params->lora.R, 0);
    assert_true(csp_contract_equal(e->contract, &again.contract, difference, sizeof(difference)));
    assert_string_equal(again.tokenizer, tokenizer);
    for (int64_t i = 0; i < from->count; i++) {
        const csp_param *row = &from->rows[i],
                        *to = csp_params_find(again.model->params, row->name);
        float *want;

        if (csp_param_is_lora(row)) {
            assert_null(to);
            continue;
        }
        want = malloc(csp_tensor_bytes(&row->value));
        assert_non_null(want);
        assert_ok(csp_weights_download(e->model->be, from, row, true, want));
        assert_memory_equal(want, to->value.data, csp_tensor_bytes(&row->value));
        free(want);
    }
    csp_opened_clear(&again);
}

static void a_folder_holds_the_merged_model_its_tokenizer_and_its_contract(void **state)
{
    csp_contract contract;
    fixture f;
    csp_huggingface e;

    (void)state;
    e = opened(&f, &contract);
    assert_ok(csp_export_huggingface(&e, scratch_path("hf")));
    assert_file_is("hf/tokenizer.json", tokenizer);
    assert_file_has("hf/tokenizer_config.json", "\"PreTrainedTokenizerFast\"");
    assert_file_has("hf/tokenizer_config.json", "\"bos_token\": \"<s>\"");
    assert_file_has("hf/tokenizer_config.json", "\"eos_token\": \"</s>\"");
    assert_file_has("hf/config.json", "\"LlamaForCausalLM\"");
    assert_file_has("hf/config.json", "\"tie_word_embeddings\": true");
    assert_opens_as_merged(&e, "hf");
    /* Shards, and a variant that only is_causal tells transformers of. */
    contract.variant = CSP_VARIANT_BI;
    e.shard_bytes = 4096;
    assert_ok(csp_export_huggingface(&e, scratch_path("sharded")));
    assert_file_has("sharded/config.json", "\"is_causal\": false");
    assert_true(csp_file_exists(scratch_path("sharded/model.safetensors.index.json")));
    assert_opens_as_merged(&e, "sharded");
    csp_contract_clear(&contract);
    fixture_close(&f);
}

static void an_adapter_folder_holds_the_adapter_alone(void **state)
{
    const csp_lora none = { 0 };
    csp_contract contract;
    csp_lora lora;
    csp_safetensors *theirs, *ours;
    char path[700], *base;
    csp_huggingface e;
    fixture f;

    (void)state;
    e = opened(&f, &contract);
    assert_ok(csp_export_peft(&e, "../base", scratch_path("peft")));
    assert_false(csp_file_exists(scratch_path("peft/config.json")));
    assert_ok(csp_lora_config_read(scratch_path("peft"), &lora, &base));
    assert_string_equal(base, "../base");
    assert_int_equal(lora.targets, f.model->params->lora.targets);
    assert_ok(csp_safetensors_open(scratch_path("peft/adapter_model.safetensors"), &ours));
    snprintf(path, sizeof(path), "%s/adapter/adapter_model.safetensors", fixture_dir("llama_tied"));
    assert_ok(csp_safetensors_open(path, &theirs));
    assert_int_equal(csp_safetensors_count(ours), csp_safetensors_count(theirs));
    for (int64_t i = 0; i < csp_safetensors_count(theirs); i++) {
        const csp_safetensors_entry *a = csp_safetensors_at(theirs, i), *b;

        assert_ok(csp_safetensors_find(ours, a->name, &b));
        assert_memory_equal(a->tensor.data, b->tensor.data, csp_tensor_bytes(&a->tensor));
    }
    csp_safetensors_close(ours);
    csp_safetensors_close(theirs);
    free(base);
    fixture_close(&f);

    fixture_open(&f, "qwen3", &none, NULL, CSP_TRAIN_NONE);
    e.model = f.model;
    assert_int_equal(csp_export_peft(&e, "x", scratch_path("no")), CSP_ERR_ARGUMENT);
    assert_error_has("no adapter");
    assert_false(csp_file_exists(scratch_path("no")));
    csp_contract_clear(&contract);
    fixture_close(&f);
}

static void a_folder_with_a_model_is_left_alone(void **state)
{
    csp_contract contract;
    csp_huggingface e;
    fixture f;

    (void)state;
    e = opened(&f, &contract);
    assert_ok(csp_file_make_dirs(scratch_path("taken")));
    scratch_text(scratch_path("taken/config.json"), "mine");
    assert_int_equal(csp_export_huggingface(&e, scratch_path("taken")), CSP_ERR_IO);
    assert_error_has("holds a model already (config.json)");
    assert_int_equal(csp_export_peft(&e, "x", scratch_path("taken")), CSP_ERR_IO);
    assert_file_is("taken/config.json", "mine");
    assert_int_equal(scratch_count(scratch_path("taken"), "token"), 0);
    e.tokenizer = "{";
    e.tokenizer_bytes = 1;
    assert_int_equal(csp_export_huggingface(&e, scratch_path("broken")), CSP_ERR_FORMAT);
    assert_error_has("tokenizer.json:1: not JSON");
    assert_false(csp_file_exists(scratch_path("broken/config.json")));
    csp_contract_clear(&contract);
    fixture_close(&f);
}

static csp_status export_again(void *context)
{
    return csp_export_huggingface(context, scratch_path("faulty"));
}

/* A folder without config.json is no model; with it, it is a whole one: it comes last. */
static void nothing_half_is_left(void *context)
{
    if (csp_file_exists(scratch_path("faulty/config.json"))) {
        assert_opens_as_merged(context, "faulty");
        assert_int_equal(remove(scratch_path("faulty/config.json")), 0);
    }
    (void)remove(scratch_path("faulty/model.safetensors"));
}

static void every_failure_leaves_a_whole_folder_or_none(void **state)
{
    csp_contract contract;
    csp_huggingface e;
    fixture f;

    (void)state;
    e = opened(&f, &contract);
    assert_true(walk_faults(export_again, nothing_half_is_left, &e) > 10);
    csp_contract_clear(&contract);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_folder_holds_the_merged_model_its_tokenizer_and_its_contract),
        cmocka_unit_test(an_adapter_folder_holds_the_adapter_alone),
        cmocka_unit_test(a_folder_with_a_model_is_left_alone),
        cmocka_unit_test(every_failure_leaves_a_whole_folder_or_none),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
