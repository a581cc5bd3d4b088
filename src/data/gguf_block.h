/* The types of GGUF's tensors: how a block of elements lies in the file, and what it stands for. */
#pragma once
#include "ir/dtype.h"

enum { TR_GGUF_MOST_ELEMS = 256 }; /* of a block */

typedef struct tr_gguf_block {
    const char *name;
    int type;         /* the file's number */
    int elems, bytes; /* a row is whole blocks */
    tr_dtype dtype;   /* of what is read: f32 when there is a `decode`, else what is stored */
    void (*decode)(const unsigned char *block, float *out); /* NULL: stored as it is */
} tr_gguf_block;

const tr_gguf_block *tr_gguf_block_find(int type); /* NULL: of no type that can be read */
const tr_gguf_block *tr_gguf_block_at(int k);      /* k = 0, 1, ..; NULL after the last */
