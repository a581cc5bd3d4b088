/* The graph as text, complete: what is printed parses back to the same graph. docs/ir.md has the form. */
#pragma once
#include "ir/graph.h"

void tr_graph_print(const tr_graph *graph, tr_text *out);
/* Refuses malformed text with its line; the result has passed tr_graph_verify. */
tr_error *tr_graph_parse(const char *text, tr_graph **out);
