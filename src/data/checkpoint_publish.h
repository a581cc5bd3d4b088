/* Making a new checkpoint the one that OUT/ shows. Internal to checkpoint*.c. */
#pragma once
#include "base/error.h"
#include "data/checkpoint_manifest.h"

/* OUT/latest -> checkpoints/NAME, the files of OUT/ -> latest/FILE, and OUT/best if `best`. */
tr_error *tr_checkpoint_publish(const char *out_dir, const char *name, const tr_manifest *manifest);
