/*
 * export_model.h - the part of csplade export that writes models: --format hf and peft.
 */
#pragma once

#include "cli/args.h"

/* Whether --format names a folder of a model, not files of vectors. */
bool csp_export_is_model(const csp_arguments *args);

/* Writes --model to --output as a Hugging Face or a PEFT folder. */
CSP_CHECKED csp_status csp_export_model(const csp_arguments *args);
