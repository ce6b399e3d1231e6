/* What a network of the stand-in is, and what it computes with. */
#pragma once
#include "standin.h"

enum { EMBED, BLOCK, LM_HEAD, GREEDY_HEAD, SAMPLE_HEAD, VIT3, VIT25, ADD };
enum { /* places in model_t.ints */
    HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCAB, SECTION_T, SECTION_H, SECTION_W, INTERLEAVED,
    NORM_IN_BLOCK, V_HIDDEN, V_INTERMEDIATE, V_DEPTH, V_HEADS, V_PATCH, V_MERGE, V_TAPS, V_TAP0, V_TAP1, V_TAP2,
    V_FULL, INTS
};
enum { THETA, EPSILON, V_THETA, FLOATS };

typedef struct { char *name; uint64_t count; float *data; } weight_t;
typedef struct {
    int ints[INTS];
    float floats[FLOATS];
    int weight_count;
    weight_t *weights;
} model_t;

typedef struct { int dtype; bm_shape_t shape; uint64_t address, own; float *values; } port_t;
typedef struct {
    const model_t *model;
    int kind, layer, dynamic, inputs, outputs;
    port_t in[8], out[8]; /* shapes as launched; values in float */
} call_t;

uint64_t count_of(const bm_shape_t *shape);
const float *weight(const model_t *model, const char *format, ...); /* NULL if there is none */
void compute(call_t *call);
