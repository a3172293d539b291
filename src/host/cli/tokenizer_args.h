/*
 * tokenizer_args.h - the tokenizer that a path on the command line names: a folder with
 * tokenizer.json, such a file (.gz too), or a checkpoint (.h5), which holds one.
 */
#pragma once

#include "data/tokenizer.h"

/*
 * Opens the tokenizer of any of the three. Owner: csp_tokenizer_close.
 *
 * Errors: those of csp_tokenizer_open and csp_hdf5_open; CSP_ERR_FORMAT for an HDF5 file without a
 *         tokenizer.
 */
CSP_CHECKED csp_status csp_tokenizer_of(const char *path, csp_tokenizer **out);
