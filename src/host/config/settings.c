/*
 * settings.c - the rows of every setting: key, kind, standard value, limits, unit, help.
 *
 * Standard values are the recipe of the nearest published runs (LACONIC, Lion); recipe files in
 * configs/ say where they differ. "free" rows may change between a checkpoint and its resumption.
 */
#include "config/settings.h"

#define ROWS(table) (table), (int)(sizeof(table) / sizeof((table)[0]))

#define TYPE csp_model_settings
static const csp_field model_fields[] = {
    CSP_FIELD(TYPE, path, CSP_FIELD_TEXT, NULL, 0, 0, "",
              "folder with config.json, *.safetensors and tokenizer.json; required"),
    CSP_FIELD_WORD(TYPE, variant, CSP_FIELD_ENUM, "causal", "causal|echo|bi",
                   "how a token sees the text: what precedes it, the text twice, or all of it"),
    CSP_FIELD(TYPE, query_prefix, CSP_FIELD_TEXT, "query: ", 0, 0, "", "put before every query"),
    CSP_FIELD(TYPE, passage_prefix, CSP_FIELD_TEXT, "passage: ", 0, 0, "",
              "put before every document"),
    CSP_FIELD(TYPE, title_separator, CSP_FIELD_TEXT, " ", 0, 0, "",
              "put between a document's title and its text"),
    CSP_FIELD(TYPE, query_max_len, CSP_FIELD_I64, "192", 1, 262144, "tokens",
              "longest query with its prefix, special tokens not counted; longer ones are cut"),
    CSP_FIELD(TYPE, passage_max_len, CSP_FIELD_I64, "192", 1, 262144, "tokens",
              "the same for documents"),
    CSP_FIELD(TYPE, add_bos, CSP_FIELD_BOOL, "false", 0, 1, "",
              "put one begin-of-text token before every text (in an echo it is not pooled)"),
    CSP_FIELD(TYPE, append_eos, CSP_FIELD_BOOL, "false", 0, 1, "",
              "put one end-of-text token after every text"),
    CSP_FIELD(TYPE, logit_scale, CSP_FIELD_F64, "1", 1e-6, 1e6, "",
              "multiplies every logit before the saturation"),
    CSP_FIELD(TYPE, exclude_ids, CSP_FIELD_I64S, "", 0, 2147483647, "token ids",
              "terms that are left out of every vector"),
    CSP_FIELD_WORD(TYPE, pooling, CSP_FIELD_ENUM, "max", "max|sum",
                   "how the tokens of a text make one weight per term"),
    CSP_FIELD(TYPE, top_k_query, CSP_FIELD_I64, "0", 0, 2147483647, "terms",
              "strongest terms of a query kept when encoding; 0 = all"),
    CSP_FIELD(TYPE, top_k_passage, CSP_FIELD_I64, "0", 0, 2147483647, "terms",
              "the same for documents"),
    CSP_FIELD(TYPE, quant_scale, CSP_FIELD_F64, "100", 1e-3, 1e6, "",
              "integer impacts of exports are round(weight x this)"),
};
#undef TYPE

#define TYPE csp_lora_settings
static const csp_field lora_fields[] = {
    CSP_FIELD(TYPE, r, CSP_FIELD_I64, "16", 0, 65536, "",
              "rank of every adapter; 0 = full fine-tuning, as without this section"),
    CSP_FIELD(TYPE, alpha, CSP_FIELD_F64, "32", 1e-6, 1e6, "",
              "an adapter's product is scaled by alpha / r"),
    CSP_FIELD(TYPE, dropout, CSP_FIELD_F64, "0.1", 0, 0.99, "",
              "share of an adapter's inputs set to 0 while training"),
    CSP_FIELD(TYPE, use_rslora, CSP_FIELD_BOOL, "false", 0, 1, "",
              "scale by alpha / sqrt(r) instead"),
    CSP_FIELD_WORD(TYPE, target_modules, CSP_FIELD_TEXTS,
                   "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
                   "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj",
                   "the matrices that get an adapter"),
    CSP_FIELD(TYPE, init, CSP_FIELD_TEXT, NULL, 0, 0, "",
              "folder of a PEFT adapter to start from; null = a fresh one"),
    CSP_FIELD_WORD(TYPE, between_phases, CSP_FIELD_ENUM, "keep", "keep|merge",
                   "the next phase goes on with the adapter, or folds it in and starts a new one"),
    CSP_FIELD_WORD(TYPE, base_precision, CSP_FIELD_ENUM, "same", "same|fp8",
                   "frozen matrices as device.precision says, or in 8 bits (GPUs of compute "
                   "capability 9.0; a CPU computes the same in float32)"),
};
#undef TYPE

#define TYPE csp_data_settings
static const csp_field data_fields[] = {
    CSP_FIELD(TYPE, corpus, CSP_FIELD_TEXT, NULL, 0, 0, "",
              "documents: a BEIR folder (corpus.jsonl, or its shards), .jsonl or .tsv (.gz too)"),
    CSP_FIELD(TYPE, queries, CSP_FIELD_TEXT, NULL, 0, 0, "",
              "queries: .jsonl or .tsv; null = those of the BEIR folder"),
    CSP_FIELD(TYPE, qrels, CSP_FIELD_TEXT, NULL, 0, 0, "",
              "which documents answer which query: qrels file; null = qrels/train.tsv of the BEIR "
              "folder"),
    CSP_FIELD(TYPE, negatives, CSP_FIELD_TEXT, NULL, 0, 0, "",
              "hard negatives: a line is a query id and the ids of its negatives; null = "
              "negatives.train.tsv of the BEIR folder, where it has one"),
    CSP_FIELD(TYPE, train, CSP_FIELD_TEXT, NULL, 0, 0, "",
              "Tevatron JSONL in place of queries and qrels (and corpus, with texts within), or id "
              "triples in .tsv beside corpus and queries"),
    CSP_FIELD(TYPE, text, CSP_FIELD_TEXTS, "", 0, 0, "",
              "files of the adaptation phase, .txt or .jsonl; [] = the texts of corpus"),
    CSP_FIELD_FREE(TYPE, dev_queries, CSP_FIELD_TEXT, NULL, 0, 0, "",
                   "queries of evaluations while training; null = those of queries"),
    CSP_FIELD_FREE(TYPE, dev_qrels, CSP_FIELD_TEXT, NULL, 0, 0, "",
                   "their judgements; null = no evaluation while training"),
    CSP_FIELD(TYPE, shuffle, CSP_FIELD_BOOL, "true", 0, 1, "",
              "a new order in every epoch, a pure function of run.seed"),
    CSP_FIELD_FREE(TYPE, prefetch_factor, CSP_FIELD_I64, "2", 0, 1024, "optimizer steps",
                   "steps whose texts a thread reads and tokenises ahead; 0 = no thread, each step "
                   "waits for its own"),
    CSP_FIELD(TYPE, train_group_size, CSP_FIELD_I64, "16", 1, 65536, "documents",
              "documents of one query in a batch: its positive and the rest negatives, drawn at "
              "random where the data has fewer"),
    CSP_FIELD_FREE(TYPE, strict, CSP_FIELD_BOOL, "false", 0, 1, "",
                   "empty and over-long texts and ids that do not join are errors, found before "
                   "the first step"),
};
#undef TYPE

#define TYPE csp_adapt_settings
static const csp_field adapt_fields[] = {
    CSP_FIELD(TYPE, max_steps, CSP_FIELD_I64, "10000", 1, 1e9, "optimizer steps",
              "length of the phase"),
    CSP_FIELD(TYPE, lambda_relu, CSP_FIELD_F64, "1", 0, 1e6, "",
              "weight of the cross-entropy of saturated logits beside the usual one"),
    CSP_FIELD(TYPE, max_len, CSP_FIELD_I64, "512", 2, 262144, "tokens", "longer texts are cut"),
};
#undef TYPE

#define TYPE csp_contrastive_settings
static const csp_field contrastive_fields[] = {
    CSP_FIELD(TYPE, max_steps, CSP_FIELD_I64, "10000", 1, 1e9, "optimizer steps",
              "length of the phase"),
    CSP_FIELD(TYPE, temperature, CSP_FIELD_F64, "1", 1e-4, 1e4, "",
              "divides every score before the softmax"),
    CSP_FIELD(TYPE, lambda_q, CSP_FIELD_F64, "1e-3", 0, 1e3, "",
              "final weight of the sparsity term of the queries"),
    CSP_FIELD(TYPE, lambda_d, CSP_FIELD_F64, "1e-3", 0, 1e3, "",
              "final weight of the sparsity term of the documents"),
    CSP_FIELD_WORD(TYPE, regularizer, CSP_FIELD_ENUM, "flops", "flops|l1",
                   "the sparsity term: squared mean activations, or the sum of weights"),
    CSP_FIELD(TYPE, ramp_steps, CSP_FIELD_I64, "-1", -1, 1e9, "optimizer steps",
              "both weights rise from 0 as the square of step/ramp over this many steps; -1 = a "
              "third of max_steps"),
    CSP_FIELD(TYPE, mask_known_positives, CSP_FIELD_BOOL, "true", 0, 1, "",
              "leave known positives other than the query's own out of the softmax"),
    CSP_FIELD(
        TYPE, negative_blocks, CSP_FIELD_I64, "1", 1, 1e6, "blocks",
        "parts of a step, of as many queries and about as long; queries are compared with the "
        "documents of their part only: for very large steps on very many ranks; 1 = with all"),
};
#undef TYPE

#define TYPE csp_optim_settings
static const csp_field optim_fields[] = {
    CSP_FIELD(TYPE, learning_rate, CSP_FIELD_F64, "0", 0, 10, "",
              "highest learning rate of AdamW; 0 = 1e-4 with lora, 2e-5 without"),
    CSP_FIELD_WORD(TYPE, lr_scheduler_type, CSP_FIELD_ENUM, "cosine", "linear|cosine|constant",
                   "how the rate falls after the warm-up"),
    CSP_FIELD(TYPE, warmup_ratio, CSP_FIELD_F64, "0.05", 0, 1, "",
              "share of the steps over which the rate rises from 0"),
    CSP_FIELD(TYPE, weight_decay, CSP_FIELD_F64, "0", 0, 10, "",
              "decoupled decay, not of norms and biases"),
    CSP_FIELD(TYPE, adam_beta1, CSP_FIELD_F64, "0.9", 0, 0.999999, "", "decay of the first moment"),
    CSP_FIELD(TYPE, adam_beta2, CSP_FIELD_F64, "0.999", 0, 0.99999999, "",
              "decay of the second moment"),
    CSP_FIELD(TYPE, adam_epsilon, CSP_FIELD_F64, "1e-8", 1e-16, 1, "",
              "added to the root of the second moment"),
    CSP_FIELD(TYPE, max_grad_norm, CSP_FIELD_F64, "1", 0, 1e9, "",
              "gradients of a larger norm are scaled down to it; 0 = never"),
    CSP_FIELD(TYPE, stochastic_rounding, CSP_FIELD_BOOL, "false", 0, 1, "",
              "of bf16 weights: updates are rounded up or down at random, in place of fp32 copies "
              "that take 4 bytes a weight"),
};
#undef TYPE

#define TYPE csp_batch_settings
static const csp_field batch_fields[] = {
    CSP_FIELD(TYPE, queries, CSP_FIELD_I64, "64", 1, 1e6, "queries",
              "queries of one contrastive step, over all ranks"),
    CSP_FIELD(TYPE, texts, CSP_FIELD_I64, "64", 1, 1e6, "texts",
              "texts of one adaptation step, over all ranks"),
    CSP_FIELD(TYPE, micro_batch_tokens, CSP_FIELD_I64, "0", 0, 1e9, "tokens",
              "tokens computed at once: changes memory, not the gradient; 0 = planned from memory"),
    CSP_FIELD_FREE(TYPE, recompute, CSP_FIELD_BOOL, "false", 0, 1, "",
                   "keep only the input of every block and compute the rest again: less memory, a "
                   "third more time"),
};
#undef TYPE

#define TYPE csp_eval_settings
static const csp_field eval_fields[] = {
    CSP_FIELD_FREE(TYPE, queries, CSP_FIELD_I64, "0", 0, 1e9, "queries",
                   "dev queries of an evaluation while training, the first ones; 0 = all"),
    CSP_FIELD_FREE(TYPE, pool, CSP_FIELD_I64, "0", 0, 1e9, "documents",
                   "documents searched: the judged ones and a fixed sample up to this many; 0 = "
                   "the whole corpus"),
    CSP_FIELD_FREE(TYPE, top_k, CSP_FIELD_I64, "100", 1, 1e6, "documents", "length of a ranking"),
    CSP_FIELD_FREE(TYPE, top_k_terms, CSP_FIELD_I64, "0", 0, 2147483647, "terms",
                   "strongest terms of a document kept there; 0 = as model.top_k_passage"),
};
#undef TYPE

#define TYPE csp_run_settings
static const csp_field run_fields[] = {
    CSP_FIELD_FREE(TYPE, output_dir, CSP_FIELD_TEXT, NULL, 0, 0, "",
                   "folder of checkpoints, metrics and the resolved config; required"),
    CSP_FIELD_WORD(TYPE, phases, CSP_FIELD_TEXTS, "adapt,contrastive", "adapt|contrastive",
                   "what to run, in this order"),
    CSP_FIELD(TYPE, seed, CSP_FIELD_I64, "42", 0, 1e15, "", "of every random number"),
    CSP_FIELD_FREE(TYPE, logging_steps, CSP_FIELD_I64, "10", 1, 1e9, "optimizer steps",
                   "a line for people every so often; metrics.jsonl has every step"),
    CSP_FIELD_FREE(TYPE, eval_steps, CSP_FIELD_I64, "0", 0, 1e9, "optimizer steps",
                   "evaluate on data.dev_qrels every so often; 0 = never"),
    CSP_FIELD_FREE(TYPE, save_steps, CSP_FIELD_I64, "500", 0, 1e9, "optimizer steps",
                   "write a checkpoint every so often; 0 = at the end of a phase only"),
    CSP_FIELD_FREE(TYPE, save_total_limit, CSP_FIELD_I64, "3", 1, 1e6, "checkpoints",
                   "the newest ones that are kept"),
    CSP_FIELD_FREE_WORD(TYPE, async_save, CSP_FIELD_ENUM, "auto", "auto|off|on",
                        "write checkpoints from a copy in host memory while training goes on; auto "
                        "= where the copy takes at most half of the free memory (a quarter where "
                        "the model computes in it), on = refuse to run without"),
    CSP_FIELD_FREE_WORD(TYPE, metric_for_best, CSP_FIELD_TEXT, "nDCG@10", "nDCG@10|RR@10|R@100|AP",
                        "what the best checkpoint is chosen by"),
    CSP_FIELD_FREE(TYPE, keep_best, CSP_FIELD_BOOL, "true", 0, 1, "",
                   "keep the best checkpoint beside the newest ones"),
    CSP_FIELD_FREE(TYPE, max_minutes, CSP_FIELD_F64, "0", 0, 1e7, "minutes",
                   "write a checkpoint and stop after this time; 0 = no limit"),
    CSP_FIELD_FREE(
        TYPE, resume, CSP_FIELD_TEXT, "auto", 0, 0, "",
        "auto = the newest checkpoint of output_dir, none = start anew (refused where there are "
        "checkpoints), or a checkpoint's path"),
    CSP_FIELD_FREE(TYPE, max_skipped_steps, CSP_FIELD_I64, "10", 0, 1e9, "optimizer steps",
                   "steps in a row that a gradient which is not finite may cost; one more ends "
                   "the run"),
    CSP_FIELD_FREE(TYPE, stop_on_collapse, CSP_FIELD_BOOL, "false", 0, 1, "",
                   "end the run when vectors collapse, in place of a warning"),
    CSP_FIELD_FREE(TYPE, collapse_share, CSP_FIELD_F64, "0.5", 0, 1, "",
                   "share of all-zero vectors in a step that counts as a collapse"),
    CSP_FIELD_FREE(
        TYPE, rank_timeout_s, CSP_FIELD_F64, "1800", 1, 1e7, "seconds",
        "how long ranks wait for one another before the run ends: more than rank 0 takes "
        "to write a checkpoint"),
    CSP_FIELD_FREE(TYPE, checksum_steps, CSP_FIELD_I64, "100", 0, 1e9, "optimizer steps",
                   "ranks compare checksums of what they train every so often, and stop where one "
                   "differs; 0 = never"),
    CSP_FIELD_FREE_WORD(
        TYPE, shard_state, CSP_FIELD_ENUM, "auto", "auto|off|on",
        "ranks share out moments and fp32 masters of full fine-tuning (ZeRO-1), and "
        "each writes its part beside a checkpoint; auto = from 1 GiB of them on"),
    CSP_FIELD_FREE(
        TYPE, bucket_mb, CSP_FIELD_F64, "50", 0.001, 1e6, "MB",
        "gradients of full fine-tuning that ranks add up at once, at least: whole layers, "
        "while those below are still computed"),
};
#undef TYPE

#define TYPE csp_device_settings
static const csp_field device_fields[] = {
    CSP_FIELD_FREE(TYPE, name, CSP_FIELD_TEXT, "auto", 0, 0, "",
                   "cpu, cuda or cuda:N (counted from 0); auto = a GPU where there is one"),
    CSP_FIELD_FREE_WORD(TYPE, precision, CSP_FIELD_ENUM, "auto", "auto|fp32|bf16",
                        "of weights and activations; auto = bf16 where the device has it"),
    CSP_FIELD_FREE(TYPE, threads, CSP_FIELD_I64, "0", 0, 4096, "threads",
                   "0 = one for every core this process may use"),
    CSP_FIELD_FREE(TYPE, sync_every_op, CSP_FIELD_BOOL, "false", 0, 1, "",
                   "wait for every op, so that a device's failure names it; a CPU always does"),
    CSP_FIELD_FREE(
        TYPE, tune_products, CSP_FIELD_BOOL, "false", 0, 1, "",
        "a GPU times the algorithms of each kind of matrix product at its first use; "
        "checkpoints keep the choices; of several ranks the first chooses for all; a CPU has "
        "nothing to choose"),
    CSP_FIELD_FREE_WORD(
        TYPE, head_forward, CSP_FIELD_ENUM, "auto", "auto|tiles|fused",
        "how a GPU forms the maxima of the head's logits; fused = one kernel, of bf16 "
        "and max pooling, for compute capability 9.0; auto = tiles, as long as no "
        "device has measured the other faster"),
    CSP_FIELD_FREE_WORD(TYPE, head_backward, CSP_FIELD_ENUM, "auto",
                        "auto|lists|stream|tiles|cusparse",
                        "how a GPU forms the gradient of max pooling; auto = by how many terms are "
                        "active; cusparse needs libcusparse"),
    CSP_FIELD_FREE_WORD(TYPE, graphs, CSP_FIELD_ENUM, "auto", "auto|off|on",
                        "which passes that repeat a GPU replays as CUDA graphs, to the same bits; "
                        "auto = those of up to 4096 token rows"),
};
#undef TYPE

const csp_section csp_sections[] = {
    { "model", ROWS(model_fields), offsetof(csp_config, model), NULL, NULL, false,
      "the model to start from and how it reads texts" },
    { "lora", ROWS(lora_fields), offsetof(csp_config, lora), NULL, NULL, true,
      "train adapters; without this section the whole model is trained" },
    { "data", ROWS(data_fields), offsetof(csp_config, data), NULL, NULL, false,
      "files; relative paths start at the folder csplade is called in" },
    { "optim", ROWS(optim_fields), offsetof(csp_config, optim), NULL, NULL, false,
      "AdamW and its schedule; a phase may override any of it in its own section" },
    { "batch", ROWS(batch_fields), offsetof(csp_config, batch), NULL, NULL, false,
      "size of a step; a phase may override any of it in its own section" },
    { "adapt", ROWS(adapt_fields), offsetof(csp_config, adapt), NULL, "adapt", false,
      "first phase: next-token prediction that teaches saturated logits" },
    { "adapt.optim", ROWS(optim_fields), offsetof(csp_config, adapt.optim), "optim", "adapt", false,
      "settings of optim for this phase only" },
    { "adapt.batch", ROWS(batch_fields), offsetof(csp_config, adapt.batch), "batch", "adapt", false,
      "settings of batch for this phase only" },
    { "contrastive", ROWS(contrastive_fields), offsetof(csp_config, contrastive), NULL,
      "contrastive", false, "second phase: queries find their documents" },
    { "contrastive.optim", ROWS(optim_fields), offsetof(csp_config, contrastive.optim), "optim",
      "contrastive", false, "settings of optim for this phase only" },
    { "contrastive.batch", ROWS(batch_fields), offsetof(csp_config, contrastive.batch), "batch",
      "contrastive", false, "settings of batch for this phase only" },
    { "eval", ROWS(eval_fields), offsetof(csp_config, eval), NULL, NULL, false,
      "the evaluation every run.eval_steps" },
    { "run", ROWS(run_fields), offsetof(csp_config, run), NULL, NULL, false,
      "what is run, where it goes, how often it reports" },
    { "device", ROWS(device_fields), offsetof(csp_config, device), NULL, NULL, false,
      "what computes" },
};
const int csp_section_count = (int)(sizeof(csp_sections) / sizeof(csp_sections[0]));

const csp_setting_alias csp_setting_aliases[] = {
    { "model_name_or_path", "model.path", "" },
    { "is_bidirectional", "model.variant", "bi" },
    { "is_echo", "model.variant", "echo" },
    { "pooling_strategy", "model.pooling", "" },
    { "q_max_len", "model.query_max_len", "" },
    { "p_max_len", "model.passage_max_len", "" },
    { "max_seq_length", "model.passage_max_len", "and model.query_max_len" },
    { "query_instruction", "model.query_prefix", "" },
    { "passage_instruction", "model.passage_prefix", "" },
    { "add_special_tokens", "model.add_bos", "and model.append_eos" },
    { "append_eos_token", "model.append_eos", "" },
    { "padding_side", NULL, "texts are packed and never padded" },
    { "lora_r", "lora.r", "" },
    { "lora_alpha", "lora.alpha", "" },
    { "lora_dropout", "lora.dropout", "" },
    { "lora_target_modules", "lora.target_modules", "" },
    { "lora_name_or_path", "lora.init", "" },
    { "dataset_name", "data.train", "or data.corpus" },
    { "dataset_path", "data.train", "or data.corpus" },
    { "corpus_path", "data.corpus", "" },
    { "train_n_passages", "data.train_group_size", "" },
    { "q_flops_loss_factor", "contrastive.lambda_q", "" },
    { "p_flops_loss_factor", "contrastive.lambda_d", "" },
    { "query_regularizer_weight", "contrastive.lambda_q", "" },
    { "document_regularizer_weight", "contrastive.lambda_d", "" },
    { "lambda_p", "contrastive.lambda_d", "" },
    { "flops_warmup", "contrastive.ramp_steps", "in optimizer steps" },
    { "tau", "contrastive.temperature", "" },
    { "distil_temperature", NULL, "distillation is not there yet" },
    { "lr", "optim.learning_rate", "" },
    { "warmup_steps", "optim.warmup_ratio", "as a share of all steps" },
    { "beta1", "optim.adam_beta1", "" },
    { "beta2", "optim.adam_beta2", "" },
    { "per_device_train_batch_size", "batch.queries", "of the whole step, over all devices" },
    { "train_batch_size", "batch.queries", "of the whole step, over all devices" },
    { "gradient_accumulation_steps", "batch.micro_batch_tokens",
      "any split of batch.queries gives the same gradient" },
    { "grad_cache", "batch.micro_batch_tokens", "gradients of representations are always cached" },
    { "gc_q_chunk_size", "batch.micro_batch_tokens", "" },
    { "gc_p_chunk_size", "batch.micro_batch_tokens", "" },
    { "gradient_checkpointing", "batch.recompute", "" },
    { "num_train_epochs", "contrastive.max_steps", "in optimizer steps" },
    { "lambda_ReLU", "adapt.lambda_relu", "" },
    { "overwrite_output_dir", "run.resume", "none starts anew" },
    { "resume_from_checkpoint", "run.resume", "" },
    { "load_best_model_at_end", "run.keep_best", "" },
    { "bf16", "device.precision", "bf16" },
    { "fp16", "device.precision", "bf16 or fp32" },
    { "dataloader_prefetch_factor", "data.prefetch_factor", "in steps" },
    { "dataloader_num_workers", "data.prefetch_factor", "one thread, steps ahead" },
    { "dataset_number_of_shards", NULL, "encode has --shard i/n" },
    { "dataset_shard_index", NULL, "encode has --shard i/n" },
    { "encode_is_query", NULL, "encode has --side query" },
    { "encode_output_path", NULL, "encode has --output" },
};
const int csp_setting_alias_count =
    (int)(sizeof(csp_setting_aliases) / sizeof(csp_setting_aliases[0]));
