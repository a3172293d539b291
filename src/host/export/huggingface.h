/*
 * huggingface.h - a model as files that transformers and PEFT read.
 *
 *     config.json             both spellings of rotary settings (model/model_config.h)
 *     model.safetensors       or shards and model.safetensors.index.json; adapters merged
 *     tokenizer.json          byte for byte the one the model was trained with
 *     tokenizer_config.json   PreTrainedTokenizerFast, which transformers 4 and 5 both load
 *     csplade.json            the text contract (io/contract.h): what transformers has no place for
 *
 * Source: docs/formats.md "Model folders". Variant bi is "is_causal": false, which transformers
 * obeys from 5.2 on; an echo has no key there: a reader must write the text twice as csplade.json
 * says (docs/method.md 11).
 */
#pragma once

#include "io/contract.h"
#include "model/transformer.h"

typedef struct csp_huggingface {
    const csp_model *model;
    const csp_contract *contract;
    const char *tokenizer; /* tokenizer.json */
    int64_t tokenizer_bytes;
    csp_dtype dtype;     /* of the weights in the file: CSP_F32, CSP_BF16 or CSP_F16 */
    int64_t shard_bytes; /* 0 = one file                                             */
} csp_huggingface;

/*
 * Writes DIR (made where missing) with the files above; weights before config.json, so that a
 * folder with a config.json is complete.
 *
 * Errors: CSP_ERR_IO (a folder that holds a model already is refused; too little space on the
 *         device, asked before anything is written), CSP_ERR_FORMAT (the tokenizer is not JSON),
 *         CSP_ERR_ARGUMENT, CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_export_huggingface(const csp_huggingface *e, const char *dir);

/*
 * Writes only the adapters as PEFT reads them: adapter_model.safetensors, adapter_config.json, and
 * tokenizer.json, tokenizer_config.json and csplade.json beside them.
 *
 *   base   in   base_model_name_or_path: a hub name or a path relative to where it will be read
 *
 * Errors: as csp_export_huggingface; CSP_ERR_ARGUMENT for a model without adapters.
 */
CSP_CHECKED csp_status csp_export_peft(const csp_huggingface *e, const char *base, const char *dir);
