/* What the stand-in's networks compute: Qwen's decoder layers, its vision towers, and the heads, in float. */
#define _GNU_SOURCE
#include "nets.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const float *weight(const model_t *model, const char *format, ...) {
    char name[128];
    va_list rest;
    va_start(rest, format);
    vsnprintf(name, sizeof name, format, rest);
    va_end(rest);
    for (int i = 0; i < model->weight_count; i++)
        if (!strcmp(model->weights[i].name, name)) return model->weights[i].data;
    return NULL;
}

static const float *needed(const model_t *model, const char *format, int layer) {
    const float *found = weight(model, format, layer);
    if (!found) { fprintf(stderr, "STANDIN: the model file has no weight "); fprintf(stderr, format, layer); abort(); }
    return found;
}

/* y (rows, outs) = x (rows, ins) W^T + b, W (outs, ins). */
static void linear(float *y, const float *x, const float *w, const float *b, int rows, int ins, int outs) {
    for (int r = 0; r < rows; r += 4) {
        int some = rows - r < 4 ? rows - r : 4;
        for (int o = 0; o < outs; o++) {
            const float *row = w + (size_t)o * ins;
            if (some == 4) {
                const float *x0 = x + (size_t)r * ins, *x1 = x0 + ins, *x2 = x1 + ins, *x3 = x2 + ins;
                float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
                for (int i = 0; i < ins; i++) { s0 += x0[i] * row[i]; s1 += x1[i] * row[i]; s2 += x2[i] * row[i]; s3 += x3[i] * row[i]; }
                float *to = y + (size_t)r * outs + o, bias = b ? b[o] : 0;
                to[0] = s0 + bias; to[outs] = s1 + bias; to[2 * outs] = s2 + bias; to[3 * outs] = s3 + bias;
            } else for (int k = 0; k < some; k++) {
                const float *from = x + (size_t)(r + k) * ins;
                float sum = 0;
                for (int i = 0; i < ins; i++) sum += from[i] * row[i];
                y[(size_t)(r + k) * outs + o] = sum + (b ? b[o] : 0);
            }
        }
    }
}

static void rms_norm(float *y, const float *x, const float *w, int rows, int size, float epsilon) {
    for (int r = 0; r < rows; r++) {
        float sum = 0;
        for (int i = 0; i < size; i++) sum += x[r * size + i] * x[r * size + i];
        float scale = 1 / sqrtf(sum / (float)size + epsilon);
        for (int i = 0; i < size; i++) y[r * size + i] = w[i] * (x[r * size + i] * scale);
    }
}

static void layer_norm(float *y, const float *x, const float *w, const float *b, int rows, int size) {
    for (int r = 0; r < rows; r++) {
        const float *from = x + (size_t)r * size;
        float mean = 0, square = 0;
        for (int i = 0; i < size; i++) mean += from[i];
        mean /= (float)size;
        for (int i = 0; i < size; i++) square += (from[i] - mean) * (from[i] - mean);
        float scale = 1 / sqrtf(square / (float)size + 1e-6f);
        for (int i = 0; i < size; i++) y[(size_t)r * size + i] = (from[i] - mean) * scale * w[i] + b[i];
    }
}

static float silu(float x) { return x / (1 + expf(-x)); }
static float gelu_tanh(float x) { return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x))); }
static float gelu(float x) { return 0.5f * x * (1 + erff(x * 0.70710678118f)); }

/* Rotate x (rows, heads, size) in halves by angles (rows, size / 2). */
static void rotate(float *x, const float *angles, int rows, int heads, int size) {
    int half = size / 2;
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < half; i++) {
            float c = cosf(angles[r * half + i]), s = sinf(angles[r * half + i]);
            for (int h = 0; h < heads; h++) {
                float *at = x + ((size_t)r * heads + h) * size;
                float one = at[i], other = at[i + half];
                at[i] = one * c - other * s;
                at[i + half] = other * c + one * s;
            }
        }
}

/* Attention of q (rows, heads, size) over keys and values, each (columns, kv heads, size); `mask` (rows,
   columns) is added, or without one key `past + i` and all before it are seen by row i. */
static void attend(float *out, const float *q, const float *k, const float *v, const float *mask, int rows,
                   int columns, int past, int heads, int kv_heads, int size) {
    float *scores = malloc((size_t)columns * sizeof *scores), scale = 1 / sqrtf((float)size);
    for (int r = 0; r < rows; r++)
        for (int h = 0; h < heads; h++) {
            const float *query = q + ((size_t)r * heads + h) * size;
            int group = h / (heads / kv_heads), seen = mask || past < 0 ? columns : past + r + 1;
            float most = -INFINITY, sum = 0, *to = out + ((size_t)r * heads + h) * size;
            for (int c = 0; c < seen; c++) {
                const float *key = k + ((size_t)c * kv_heads + group) * size;
                float dot = 0;
                for (int i = 0; i < size; i++) dot += query[i] * key[i];
                scores[c] = dot * scale + (mask ? mask[(size_t)r * columns + c] : 0);
                if (!(scores[c] <= most)) most = scores[c]; /* NaN, too */
            }
            for (int c = 0; c < seen; c++) sum += scores[c] = expf(scores[c] - most);
            memset(to, 0, (size_t)size * sizeof *to);
            for (int c = 0; c < seen; c++) {
                const float *value = v + ((size_t)c * kv_heads + group) * size;
                float share = scores[c] / sum;
                for (int i = 0; i < size; i++) to[i] += share * value[i];
            }
        }
    free(scores);
}

static float *text_angles(const model_t *model, const port_t *positions, int rows) {
    const int *n = model->ints;
    int half = n[HEAD_DIM] / 2, axes = positions->shape.dims[0];
    float *angles = malloc((size_t)rows * half * sizeof *angles);
    for (int i = 0; i < half; i++) {
        int axis = 0;
        if (axes == 3 && n[INTERLEAVED]) axis = i % 3 == 1 && i < 3 * n[SECTION_H] ? 1 : i % 3 == 2 && i < 3 * n[SECTION_W] ? 2 : 0;
        else if (axes == 3) axis = i < n[SECTION_T] ? 0 : i < n[SECTION_T] + n[SECTION_H] ? 1 : 2;
        float turn = 1 / powf(model->floats[THETA], (float)(2 * i) / (float)n[HEAD_DIM]);
        for (int r = 0; r < rows; r++) angles[r * half + i] = positions->values[axis * positions->shape.dims[1] + r] * turn;
    }
    return angles;
}

static void block(call_t *call) {
    const model_t *model = call->model;
    const int *n = model->ints;
    int layer = call->layer, rows = call->in[0].shape.dims[1], width = n[HIDDEN], size = n[HEAD_DIM];
    int heads = n[HEADS], kv = n[KV_HEADS], q_width = heads * size, kv_width = kv * size;
    float epsilon = model->floats[EPSILON], *x = call->in[0].values;
    bool history = call->inputs >= 4, masked = call->inputs == 3 || call->inputs == 5;
    const port_t *past_k = history ? &call->in[call->inputs - 2] : NULL, *past_v = history ? past_k + 1 : NULL;
    int past = history ? past_k->shape.dims[1] : 0;
    float *normed = malloc((size_t)rows * width * 4), *q = malloc((size_t)rows * q_width * 4);
    float *k = malloc((size_t)(past + rows) * kv_width * 4), *v = malloc((size_t)(past + rows) * kv_width * 4);
    float *new_k = k + (size_t)past * kv_width, *new_v = v + (size_t)past * kv_width;
    if (history) {
        memcpy(k, past_k->values, (size_t)past * kv_width * 4);
        memcpy(v, past_v->values, (size_t)past * kv_width * 4);
    }
    rms_norm(normed, x, needed(model, "%d.input_norm", layer), rows, width, epsilon);
    linear(q, normed, needed(model, "%d.q", layer), weight(model, "%d.q_bias", layer), rows, width, q_width);
    linear(new_k, normed, needed(model, "%d.k", layer), weight(model, "%d.k_bias", layer), rows, width, kv_width);
    linear(new_v, normed, needed(model, "%d.v", layer), weight(model, "%d.v_bias", layer), rows, width, kv_width);
    const float *q_norm = weight(model, "%d.q_norm", layer);
    if (q_norm) {
        rms_norm(q, q, q_norm, rows * heads, size, epsilon);
        rms_norm(new_k, new_k, needed(model, "%d.k_norm", layer), rows * kv, size, epsilon);
    }
    float *angles = text_angles(model, &call->in[1], rows);
    rotate(q, angles, rows, heads, size);
    rotate(new_k, angles, rows, kv, size);
    float *mixed = malloc((size_t)rows * q_width * 4), *more = malloc((size_t)rows * width * 4);
    attend(mixed, q, k, v, masked ? call->in[2].values : NULL, rows, past + rows, past, heads, kv, size);
    linear(more, mixed, needed(model, "%d.o", layer), NULL, rows, q_width, width);
    for (int i = 0; i < rows * width; i++) more[i] += x[i];
    rms_norm(normed, more, needed(model, "%d.post_norm", layer), rows, width, epsilon);
    int inner = n[INTERMEDIATE];
    float *gate = malloc((size_t)rows * inner * 4), *up = malloc((size_t)rows * inner * 4), *out = call->out[0].values;
    linear(gate, normed, needed(model, "%d.gate", layer), NULL, rows, width, inner);
    linear(up, normed, needed(model, "%d.up", layer), NULL, rows, width, inner);
    for (int i = 0; i < rows * inner; i++) gate[i] = silu(gate[i]) * up[i];
    linear(out, gate, needed(model, "%d.down", layer), NULL, rows, inner, width);
    for (int i = 0; i < rows * width; i++) out[i] += more[i];
    if (n[NORM_IN_BLOCK] && layer == n[LAYERS] - 1) rms_norm(out, out, needed(model, "norm", 0), rows, width, epsilon);
    memcpy(call->out[1].values, new_k, (size_t)rows * kv_width * 4);
    memcpy(call->out[2].values, new_v, (size_t)rows * kv_width * 4);
    free(normed); free(q); free(k); free(v); free(angles); free(mixed); free(more); free(gate); free(up);
}

/* The merger of 2x2 patches, x (rows, width) to (rows / 4, out). */
static void merge3(float *out, const float *x, const model_t *model, int rows, int which) {
    int width = model->ints[V_HIDDEN], wide = 4 * width, cells = rows / 4;
    float *normed = malloc((size_t)rows * width * 4), *inner = malloc((size_t)cells * wide * 4);
    const float *w = needed(model, "merger%d.norm", which), *b = needed(model, "merger%d.norm_bias", which);
    if (which < 0) layer_norm(normed, x, w, b, rows, width); else layer_norm(normed, x, w, b, cells, wide);
    linear(inner, normed, needed(model, "merger%d.fc1", which), needed(model, "merger%d.fc1_bias", which), cells, wide, wide);
    for (int i = 0; i < cells * wide; i++) inner[i] = gelu(inner[i]);
    linear(out, inner, needed(model, "merger%d.fc2", which), needed(model, "merger%d.fc2_bias", which), cells, wide, model->ints[HIDDEN]);
    free(normed); free(inner);
}

/* The angles of a vision tower's rotary positions, (rows, head size / 2) from (rows, 2). */
static float *vision_angles(const model_t *model, const float *places, int rows) {
    int size = model->ints[V_HIDDEN] / model->ints[V_HEADS], half = size / 2, quarter = size / 4;
    float *angles = malloc((size_t)rows * half * 4);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < half; i++) {
            float turn = 1 / powf(model->floats[V_THETA], (float)(2 * (i % quarter)) / (float)half);
            angles[r * half + i] = places[2 * r + i / quarter] * turn;
        }
    return angles;
}

/* x += proj(attention(qkv(normed))) */
static void vision_attention(float *x, const float *normed, const call_t *call, int l, const float *angles, const float *mask, int rows) {
    const model_t *model = call->model;
    int width = model->ints[V_HIDDEN], heads = model->ints[V_HEADS], size = width / heads;
    float *qkv = malloc((size_t)rows * 3 * width * 4), *parts = malloc((size_t)rows * 3 * width * 4), *more = malloc((size_t)rows * width * 4);
    linear(qkv, normed, needed(model, "v%d.qkv", l), needed(model, "v%d.qkv_bias", l), rows, width, 3 * width);
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < 3; p++) memcpy(parts + ((size_t)p * rows + r) * width, qkv + ((size_t)r * 3 + p) * width, (size_t)width * 4);
    float *q = parts, *k = parts + (size_t)rows * width, *v = parts + 2 * (size_t)rows * width;
    rotate(q, angles, rows, heads, size);
    rotate(k, angles, rows, heads, size);
    attend(qkv, q, k, v, mask, rows, rows, -1, heads, heads, size);
    linear(more, qkv, needed(model, "v%d.proj", l), needed(model, "v%d.proj_bias", l), rows, width, width);
    for (int i = 0; i < rows * width; i++) x[i] += more[i];
    free(qkv); free(parts); free(more);
}

/* Qwen3-VL's tower: pixels, positions, pos_idx, pos_weight, and a mask where it is static. */
static void vit3(call_t *call) {
    const model_t *model = call->model;
    const int *n = model->ints;
    int rows = call->in[0].shape.dims[0], width = n[V_HIDDEN], inner = n[V_INTERMEDIATE], taps = 0;
    float *x = malloc((size_t)rows * width * 4), *normed = malloc((size_t)rows * width * 4), *wide = malloc((size_t)rows * inner * 4);
    linear(x, call->in[0].values, needed(model, "v.patch", 0), needed(model, "v.patch_bias", 0), rows, n[V_PATCH], width);
    const float *table = needed(model, "v.positions", 0), *mask = call->inputs > 4 ? call->in[4].values : NULL;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < 4; c++)
            for (int i = 0; i < width; i++)
                x[r * width + i] += call->in[3].values[4 * r + c] * table[(size_t)call->in[2].values[4 * r + c] * width + i];
    float *angles = vision_angles(model, call->in[1].values, rows);
    for (int l = 0; l < n[V_DEPTH]; l++) {
        layer_norm(normed, x, needed(model, "v%d.norm1", l), needed(model, "v%d.norm1_bias", l), rows, width);
        vision_attention(x, normed, call, l, angles, mask, rows);
        layer_norm(normed, x, needed(model, "v%d.norm2", l), needed(model, "v%d.norm2_bias", l), rows, width);
        linear(wide, normed, needed(model, "v%d.fc1", l), needed(model, "v%d.fc1_bias", l), rows, width, inner);
        for (int i = 0; i < rows * inner; i++) wide[i] = gelu_tanh(wide[i]);
        linear(normed, wide, needed(model, "v%d.fc2", l), needed(model, "v%d.fc2_bias", l), rows, inner, width);
        for (int i = 0; i < rows * width; i++) x[i] += normed[i];
        if (taps < n[V_TAPS] && n[V_TAP0 + taps] == l) { merge3(call->out[1 + taps].values, x, model, rows, taps); taps++; }
    }
    merge3(call->out[0].values, x, model, rows, -1);
    free(x); free(normed); free(wide); free(angles);
}

/* Qwen2.5-VL's tower: pixels, positions, full mask, window mask, the order of the cells to be restored. */
static void vit25(call_t *call) {
    const model_t *model = call->model;
    const int *n = model->ints;
    int rows = call->in[0].shape.dims[0], width = n[V_HIDDEN], inner = n[V_INTERMEDIATE], cells = rows / 4, out = n[HIDDEN];
    float *x = malloc((size_t)rows * width * 4), *normed = malloc((size_t)rows * width * 4);
    float *gate = malloc((size_t)rows * inner * 4), *up = malloc((size_t)rows * inner * 4);
    linear(x, call->in[0].values, needed(model, "v.patch", 0), NULL, rows, n[V_PATCH], width);
    float *angles = vision_angles(model, call->in[1].values, rows);
    for (int l = 0; l < n[V_DEPTH]; l++) {
        const float *mask = call->in[n[V_FULL] >> l & 1 ? 2 : 3].values;
        rms_norm(normed, x, needed(model, "v%d.norm1", l), rows, width, 1e-6f);
        vision_attention(x, normed, call, l, angles, mask, rows);
        rms_norm(normed, x, needed(model, "v%d.norm2", l), rows, width, 1e-6f);
        linear(gate, normed, needed(model, "v%d.gate", l), needed(model, "v%d.gate_bias", l), rows, width, inner);
        linear(up, normed, needed(model, "v%d.up", l), needed(model, "v%d.up_bias", l), rows, width, inner);
        for (int i = 0; i < rows * inner; i++) gate[i] = silu(gate[i]) * up[i];
        linear(normed, gate, needed(model, "v%d.down", l), needed(model, "v%d.down_bias", l), rows, inner, width);
        for (int i = 0; i < rows * width; i++) x[i] += normed[i];
    }
    float *wide = malloc((size_t)cells * 4 * width * 4), *merged = malloc((size_t)cells * out * 4);
    rms_norm(normed, x, needed(model, "merger.norm", 0), rows, width, 1e-6f);
    linear(wide, normed, needed(model, "merger.fc1", 0), needed(model, "merger.fc1_bias", 0), cells, 4 * width, 4 * width);
    for (int i = 0; i < cells * 4 * width; i++) wide[i] = gelu(wide[i]);
    linear(merged, wide, needed(model, "merger.fc2", 0), needed(model, "merger.fc2_bias", 0), cells, 4 * width, out);
    for (int c = 0; c < cells; c++) {
        int from = (int)call->in[4].values[c];
        if (from >= 0 && from < cells) memcpy(call->out[0].values + (size_t)c * out, merged + (size_t)from * out, (size_t)out * 4);
    }
    free(x); free(normed); free(gate); free(up); free(angles); free(wide); free(merged);
}

static int best(const float *values, int count) {
    int found = 0;
    for (int i = 1; i < count; i++) if (values[i] > values[found]) found = i;
    return found;
}

static void lm_head(call_t *call) {
    const model_t *model = call->model;
    int width = model->ints[HIDDEN], vocab = model->ints[VOCAB];
    float *x = call->in[0].values, *logits = malloc((size_t)vocab * 4);
    if (!model->ints[NORM_IN_BLOCK]) rms_norm(x, x, needed(model, "norm", 0), 1, width, model->floats[EPSILON]);
    linear(logits, x, needed(model, "head", 0), NULL, 1, width, vocab);
    if (count_of(&call->out[0].shape) == 1) call->out[0].values[0] = (float)best(logits, vocab);
    else memcpy(call->out[0].values, logits, (size_t)vocab * 4);
    free(logits);
}

/* The likeliest 50: penalty, top_k, temperature, softmax, top_p that keeps five at the least. */
static void sample_head(call_t *call) {
    int vocab = (int)count_of(&call->in[0].shape), past = (int)count_of(&call->in[1].shape), kept = (int)count_of(&call->out[0].shape);
    float *logits = call->in[0].values, penalty = call->in[2].values[0], sum = 0, mass = 0;
    float *probs = call->out[0].values, *ids = call->out[1].values;
    bool *done = calloc((size_t)vocab, 1);
    for (int i = 0; i < past; i++) {
        int id = (int)call->in[1].values[i];
        if (id < 0 || id >= vocab || done[id]) continue;
        done[id] = true;
        logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
    }
    int top_k = (int)call->in[4].values[0];
    for (int k = 0; k < kept; k++) {
        int id = best(logits, vocab);
        ids[k] = (float)id;
        probs[k] = k < top_k ? logits[id] / call->in[3].values[0] : -INFINITY;
        logits[id] = -INFINITY;
    }
    for (int k = kept - 1; k >= 0; k--) sum += probs[k] = expf(probs[k] - probs[0]);
    for (int k = 0; k < kept; k++) {
        probs[k] /= sum;
        if (k >= 5 && mass >= call->in[5].values[0]) probs[k] = 0;
        mass += probs[k];
    }
    free(done);
}

void compute(call_t *call) {
    int width = call->model->ints[HIDDEN];
    switch (call->kind) {
    case EMBED:
        for (uint64_t i = 0; i < count_of(&call->in[0].shape); i++) {
            int id = (int)call->in[0].values[i];
            if (id < 0 || id >= call->model->ints[VOCAB]) { fprintf(stderr, "STANDIN: %d is no token\n", id); abort(); }
            memcpy(call->out[0].values + i * width, needed(call->model, "embedding", 0) + (size_t)id * width, (size_t)width * 4);
        }
        break;
    case BLOCK: block(call); break;
    case LM_HEAD: lm_head(call); break;
    case GREEDY_HEAD: call->out[0].values[0] = (float)best(call->in[0].values, (int)count_of(&call->in[0].shape)); break;
    case SAMPLE_HEAD: sample_head(call); break;
    case VIT3: vit3(call); break;
    case VIT25: vit25(call); break;
    case ADD:
        for (uint64_t i = 0; i < count_of(&call->in[0].shape); i++) call->out[0].values[i] = call->in[0].values[i] + call->in[1].values[i];
    }
}
