/*
 * ciff.h - the Common Index File Format, version 1, with impacts as term frequencies.
 *
 * A stream of protobuf messages, each after its length as a varint: one Header, its
 * num_postings_lists PostingsLists, its num_docs DocRecords.
 *
 *     Header        1 version = 1   2 num_postings_lists   3 num_docs   4 total_postings_lists
 *                   5 total_docs   6 total_terms_in_collection   7 average_doclength (double)
 *                   8 description (string)
 *     PostingsList  1 term (string)   2 df   3 cf   4 repeated Posting { 1 docid   2 tf }
 *     DocRecord     1 docid   2 collection_docid (string)   3 doclength
 *
 * docid in a posting is the gap to the posting before, the first one itself; proto3 leaves zeros
 * out, so document 0 has no field. Lists stand in the byte order of their terms; documents are
 * numbered in the order of the rows. A document's length is the sum of its impacts, cf that of a
 * list.
 *
 * The list "ab" with impact 3 in document 0 and 200 in document 5, byte by byte:
 *
 *     14            length
 *     0a 02 61 62   1: "ab"
 *     10 02         2: df = 2
 *     18 cb 01      3: cf = 203
 *     22 02 10 03           4: { tf 3 }
 *     22 05 08 05 10 c8 01  4: { gap 5, tf 200 }
 *
 * Source: Lin et al., "Supporting Interoperability Between Open-Source Search Engines with the
 * Common Index File Format", SIGIR 2020.
 */
#pragma once

#include "export/collection.h"

/*
 * Writes one file. Errors: CSP_ERR_DATA: more documents, or a longer one, than 31 bits hold;
 * CSP_ERR_MEMORY, CSP_ERR_IO.
 */
CSP_CHECKED csp_status csp_export_ciff(const csp_collection *collection, const char *path);
