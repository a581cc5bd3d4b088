/* Rotary positions and how they are stretched, in a Hugging Face config.json: rope_parameters since version 5 of
 * transformers, rope_scaling and rope_theta before, which is also what is written. */
#pragma once
#include "models/family.h"

/* Sets the sizes that the config names; those of dynamic scaling, context too. `where` names the file in errors. */
tr_error *tr_rope_config_read(const json_t *config, const char *where, tr_sizes *out);
/* Adds rope_scaling where positions are stretched. */
void tr_rope_config_write(json_t *config, const tr_sizes *sizes);
