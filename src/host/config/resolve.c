/* resolve.c - what depends on several settings: inherited values, computed ones, and the checks. */
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/origin.h"

static const csp_section *find_section(const char *name)
{
    for (int s = 0; s < csp_section_count; s++) {
        if (strcmp(csp_sections[s].name, name) == 0) {
            return &csp_sections[s];
        }
    }
    CSP_ASSERT(!"a section inherits from one that exists");
    return NULL;
}

/* Keeps every value as text, before computed ones take their place. */
static csp_status keep_texts(csp_config *config)
{
    for (int s = 0; s < csp_section_count; s++) {
        const csp_section *section = &csp_sections[s];

        for (int f = 0; f < section->count; f++) {
            csp_origin *origin = &config->origins[csp_origin_first(s) + f];
            char *text = NULL;
            size_t bytes = 0;
            FILE *stream = open_memstream(&text, &bytes);

            if (stream == NULL) {
                return CSP_FAIL(CSP_ERR_MEMORY, "config: no memory for its values");
            }
            csp_field_write(&section->fields[f], csp_section_object(section, config), stream);
            if (fclose(stream) != 0) {
                free(text);
                return CSP_FAIL(CSP_ERR_MEMORY, "config: no memory for its values");
            }
            free(origin->text);
            origin->text = text;
        }
    }
    return CSP_OK;
}

static csp_status inherit(csp_config *config)
{
    for (int s = 0; s < csp_section_count; s++) {
        const csp_section *section = &csp_sections[s];

        for (int f = 0; f < section->count && section->inherits != NULL; f++) {
            if (!config->origins[csp_origin_first(s) + f].is_set) {
                const csp_section *from = find_section(section->inherits);

                CSP_TRY(csp_field_copy(&section->fields[f], csp_section_object(from, config),
                                       csp_section_object(section, config)));
            }
        }
    }
    return CSP_OK;
}

static void compute_learning_rate(csp_optim_settings *optim, bool lora)
{
    if (optim->learning_rate == 0.0) {
        optim->learning_rate = lora ? 1e-4 : 2e-5;
    }
}

csp_status csp_config_resolve(csp_config *config)
{
    CSP_TRY(keep_texts(config));
    CSP_TRY(inherit(config));
    config->lora.enabled = config->lora.enabled && config->lora.r > 0;
    compute_learning_rate(&config->optim, config->lora.enabled);
    compute_learning_rate(&config->adapt.optim, config->lora.enabled);
    compute_learning_rate(&config->contrastive.optim, config->lora.enabled);
    if (config->contrastive.ramp_steps < 0) {
        config->contrastive.ramp_steps = config->contrastive.max_steps / 3;
    }
    return CSP_OK;
}

bool csp_config_has_phase(const csp_config *config, const char *phase)
{
    for (int64_t i = 0; i < config->run.phases.count; i++) {
        if (strcmp(config->run.phases.values[i], phase) == 0) {
            return true;
        }
    }
    return false;
}

static csp_status check_required(const csp_config *config)
{
    if (config->model.path == NULL || config->model.path[0] == '\0') {
        return CSP_FAIL(CSP_ERR_CONFIG, "model.path is required: the folder of the model to train");
    }
    if (config->run.output_dir == NULL || config->run.output_dir[0] == '\0') {
        return CSP_FAIL(CSP_ERR_CONFIG, "run.output_dir is required: where checkpoints go");
    }
    if (config->run.phases.count == 0) {
        return CSP_FAIL(CSP_ERR_CONFIG, "run.phases is empty: adapt, contrastive or both");
    }
    if (config->run.phases.count == 2 && strcmp(config->run.phases.values[0], "adapt") != 0) {
        return CSP_FAIL(CSP_ERR_CONFIG, "run.phases: adapt comes before contrastive");
    }
    return CSP_OK;
}

/* Whether a path ends so, perhaps with .gz behind it. */
static bool has_ending(const char *path, const char *ending)
{
    const size_t all = strlen(path), end = strlen(ending);
    const size_t bytes = all > 3 && strcmp(path + all - 3, ".gz") == 0 ? all - 3 : all;

    return bytes > end && strncmp(path + bytes - end, ending, end) == 0;
}

/* Id triples (MS MARCO) name queries and documents that other files hold; JSONL has them within. */
static bool is_triples(const char *path)
{
    return has_ending(path, ".tsv");
}

/* By its name: no file is touched here. A BEIR folder brings its judgements along. */
static bool may_be_folder(const char *path)
{
    return !has_ending(path, ".jsonl") && !has_ending(path, ".tsv") && !has_ending(path, ".txt");
}

static csp_status check_data(const csp_config *config)
{
    const csp_data_settings *data = &config->data;

    if (csp_config_has_phase(config, "adapt") && data->text.count == 0 && data->corpus == NULL) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "run.phases names adapt, but neither data.text nor data.corpus is set");
    }
    if (csp_config_has_phase(config, "contrastive") && data->train == NULL &&
        (data->corpus == NULL || (data->qrels == NULL && !may_be_folder(data->corpus)))) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "run.phases names contrastive, but neither data.train nor data.corpus with "
                        "data.qrels is set (of a BEIR folder the corpus is enough)");
    }
    if (data->train != NULL && !is_triples(data->train) &&
        (data->queries != NULL || data->qrels != NULL)) {
        return CSP_FAIL(CSP_ERR_CONFIG, "data.train has its own queries and judgements: leave "
                                        "data.queries and data.qrels out");
    }
    if (config->run.eval_steps > 0 && (data->dev_qrels == NULL || data->corpus == NULL)) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "run.eval_steps is %lld, but data.corpus and "
                        "data.dev_qrels, which it evaluates on, are not both set",
                        (long long)config->run.eval_steps);
    }
    return CSP_OK;
}

/* A micro-batch must hold the longest text. */
static csp_status check_micro_batch(const char *phase, const csp_batch_settings *batch,
                                    int64_t longest)
{
    if (batch->micro_batch_tokens > 0 && batch->micro_batch_tokens < longest) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "%s.batch.micro_batch_tokens is %lld, but one text may have %lld tokens",
                        phase, (long long)batch->micro_batch_tokens, (long long)longest);
    }
    return CSP_OK;
}

static csp_status check_blocks(const csp_contrastive_settings *s)
{
    if (s->batch.queries % s->negative_blocks != 0) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "contrastive.negative_blocks is %lld, into which the %lld queries of "
                        "contrastive.batch.queries cannot be cut evenly: make it a divisor of them",
                        (long long)s->negative_blocks, (long long)s->batch.queries);
    }
    return CSP_OK;
}

static csp_status check_sizes(const csp_config *config)
{
    const csp_model_settings *model = &config->model;
    const int64_t copies = model->variant == 1 ? 2 : 1; /* echo writes a text twice */
    const int64_t longest = model->query_max_len > model->passage_max_len ? model->query_max_len
                                                                          : model->passage_max_len;
    const int64_t tokens = copies * (longest + model->append_eos) + model->add_bos;

    if (csp_config_has_phase(config, "adapt")) {
        CSP_TRY(check_micro_batch("adapt", &config->adapt.batch, config->adapt.max_len));
    }
    if (csp_config_has_phase(config, "contrastive")) {
        CSP_TRY(check_micro_batch("contrastive", &config->contrastive.batch, tokens));
        CSP_TRY(check_blocks(&config->contrastive));
    }
    return CSP_OK;
}

/* Whether the text is "cuda" or "cuda:" and a number. */
static bool names_cuda(const char *name)
{
    if (strncmp(name, "cuda", 4) != 0) {
        return false;
    }
    return name[4] == '\0' ||
           (name[4] == ':' && name[5] != '\0' && name[5 + strspn(name + 5, "0123456789")] == '\0');
}

/* csp_pool_forward is of a layer above. */
enum { HEAD_FUSED = 2 };

/* What can be said without asking for the device; the rest is said when it is opened. */
static csp_status check_device(const csp_device_settings *device)
{
    const char *name = device->name != NULL ? device->name : "";
    const bool cpu = strcmp(name, "cpu") == 0;

    if (!cpu && strcmp(name, "auto") != 0 && !names_cuda(name)) {
        return CSP_FAIL(CSP_ERR_CONFIG, "device.name %s: no such device (auto, cpu, cuda, cuda:N)",
                        name);
    }
    if (cpu && device->head_backward != 0) {
        return CSP_FAIL(
            CSP_ERR_CONFIG,
            "device.head_backward is of a GPU, and device.name is cpu: leave it at auto");
    }
    if (cpu && device->head_forward != 0) {
        return CSP_FAIL(
            CSP_ERR_CONFIG,
            "device.head_forward is of a GPU, and device.name is cpu: leave it at auto");
    }
    if (device->head_forward == HEAD_FUSED && device->precision == CSP_PRECISION_FP32) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "device.head_forward fused is of bf16, and device.precision is fp32: take "
                        "auto or tiles");
    }
    if (cpu && device->graphs != 0) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "device.graphs is of a GPU, and device.name is cpu: leave it at auto");
    }
    if (cpu && device->precision == CSP_PRECISION_BF16) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "device.precision bf16: device.name is cpu, which computes in fp32 only");
    }
    return CSP_OK;
}

/* The weights, and what is kept beside them, are the same in all phases. */
static csp_status check_rounding(const csp_config *config)
{
    const bool adapt = config->adapt.optim.stochastic_rounding;
    const bool contrastive = config->contrastive.optim.stochastic_rounding;
    const bool used = (adapt && csp_config_has_phase(config, "adapt")) ||
                      (contrastive && csp_config_has_phase(config, "contrastive"));

    if (config->run.phases.count == 2 && adapt != contrastive) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "stochastic_rounding differs in adapt.optim and contrastive.optim, which "
                        "train the same weights: set it in optim");
    }
    if (used && (config->device.precision == CSP_PRECISION_FP32 ||
                 strcmp(config->device.name, "cpu") == 0)) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "optim.stochastic_rounding is of bf16 weights, and device asks for fp32");
    }
    return CSP_OK;
}

static csp_status check_base_precision(const csp_config *config)
{
    if (config->lora.base_precision != CSP_LORA_BASE_FP8) {
        return CSP_OK;
    }
    if (!config->lora.enabled) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "lora.base_precision fp8 is of the frozen matrices under an adapter: in "
                        "full fine-tuning (lora.r 0) nothing is frozen");
    }
    if (config->lora.between_phases == CSP_LORA_MERGE && config->run.phases.count > 1) {
        return CSP_FAIL(
            CSP_ERR_CONFIG,
            "lora.between_phases merge writes whole weights, of which lora.base_precision "
            "fp8 keeps 8 bits: merge with csplade export, in two runs, or keep the "
            "adapter");
    }
    return CSP_OK;
}

static csp_status check_sharding(const csp_config *config)
{
    if (config->run.shard_state == (int)CSP_SHARD_ON && config->lora.enabled) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "run.shard_state on is of full fine-tuning, and lora.r is %lld: every rank "
                        "keeps the state of adapters, which is small",
                        (long long)config->lora.r);
    }
    return CSP_OK;
}

csp_status csp_config_check_ranks(const csp_config *config, int ranks)
{
    const int64_t queries = config->contrastive.batch.queries, texts = config->adapt.batch.texts;
    const int64_t blocks = config->contrastive.negative_blocks;

    if (csp_config_has_phase(config, "contrastive") && queries % ranks != 0) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "contrastive.batch.queries is %lld, which %d ranks cannot share evenly: "
                        "make it a multiple of %d, or start another number of ranks",
                        (long long)queries, ranks, ranks);
    }
    if (csp_config_has_phase(config, "adapt") && texts % ranks != 0) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "adapt.batch.texts is %lld, which %d ranks cannot share evenly: make it a "
                        "multiple of %d, or start another number of ranks",
                        (long long)texts, ranks, ranks);
    }
    if (csp_config_has_phase(config, "contrastive") && blocks % ranks != 0 && ranks % blocks != 0) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "contrastive.negative_blocks is %lld, which %d ranks cannot share evenly: "
                        "make one a multiple of the other",
                        (long long)blocks, ranks);
    }
    return CSP_OK;
}

csp_status csp_config_validate(const csp_config *config)
{
    CSP_TRY(check_required(config));
    CSP_TRY(check_data(config));
    CSP_TRY(check_sizes(config));
    if (config->lora.enabled && config->lora.target_modules.count == 0) {
        return CSP_FAIL(CSP_ERR_CONFIG, "lora.target_modules is empty: nothing would be trained");
    }
    CSP_TRY(check_base_precision(config));
    CSP_TRY(check_sharding(config));
    CSP_TRY(check_device(&config->device));
    if (config->model.pooling != 0 && config->device.head_backward != 0) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "device.head_backward is of max pooling, and model.pooling is "
                        "sum: leave it at auto");
    }
    if (config->model.pooling != 0 && config->device.head_forward == HEAD_FUSED) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "device.head_forward fused is of max pooling, and model.pooling is sum: "
                        "take auto or tiles");
    }
    return check_rounding(config);
}
