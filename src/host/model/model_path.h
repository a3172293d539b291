/*
 * model_path.h - whether a path can be a model's, asked before anything is opened, so that the
 * answer says what the path is in place of which of its files is not there.
 */
#pragma once

#include "model/model_config.h"

/*
 * Passes a folder with a config.json and every file, whatever it holds.
 *
 * Errors: CSP_ERR_IO for what is not there; for a run's folder, naming its newest checkpoint; for
 *         the folder of a PEFT adapter, saying how one is used; for any other folder.
 *         CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_model_path_check(const char *path);

/*
 * The architecture of the model at path, a folder or a checkpoint, without its values.
 * Errors: those of csp_model_path_check, csp_hdf5_open and csp_model_config_parse.
 */
CSP_CHECKED csp_status csp_model_path_config(const char *path, csp_model_config *out);
