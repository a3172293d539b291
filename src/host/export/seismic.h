/*
 * seismic.h - the JSON lines of learned sparse retrieval, as Seismic and others read them:
 *
 *     {"id": "d17", "content": "", "vector": {"1043": 1.25, "2001": 0.5}}
 *
 * Weights are floats (shortest of 9 digits, exact) or, quantised, integers. Readers: pyseismic-lsr
 * (SeismicIndexLV; SeismicIndex up to 65,536 terms), DuckDB's read_json. Seismic keeps weights as
 * float16, and cuts keys of queries to the width of its get_seismic_string(): ids are safe.
 */
#pragma once

#include "export/collection.h"

/* Writes one file. Errors: CSP_ERR_IO. */
CSP_CHECKED csp_status csp_export_seismic(const csp_collection *collection, const char *path);
