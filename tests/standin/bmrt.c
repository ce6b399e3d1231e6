/* libbmrt's part of the stand-in: model files, networks with fixed shapes, launches.

   A launch is checked as the runtime checks it. Networks of address mode 0 share one arena, which is full of
   poison after each of them; those of mode 1 have memory of their own, into which inputs from elsewhere are
   copied. Static networks are only queued until the thread syncs; they read their inputs then. */
#define _GNU_SOURCE
#include "nets.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { bm_net_info_t info; int kind, layer; bm_device_mem_t own; } net_t;
typedef struct {
    bm_handle_t handle;
    model_t model;
    int net_count;
    net_t *nets;
    bm_device_mem_t arena, coefficients;
    uint32_t flags;
} runtime_t;
typedef struct { call_t call; uint64_t arena, arena_size; bool io_alone; } launch_t;

static int width(int dtype) { return dtype == BM_FLOAT16 || dtype == BM_BFLOAT16 ? 2 : 4; }

uint64_t count_of(const bm_shape_t *shape) {
    uint64_t count = 1;
    for (int i = 0; i < shape->num_dims; i++) count *= (uint64_t)shape->dims[i];
    return count;
}

static float to_float(const void *at, int dtype, uint64_t index) {
    if (dtype == BM_FLOAT32) return ((const float *)at)[index];
    if (dtype == BM_INT32) return (float)((const int32_t *)at)[index];
    if (dtype == BM_FLOAT16) return (float)((const _Float16 *)at)[index];
    union { uint32_t bits; float value; } both = {(uint32_t)((const uint16_t *)at)[index] << 16};
    return both.value;
}

static void from_float(void *at, int dtype, uint64_t index, float value) {
    if (dtype == BM_FLOAT32) ((float *)at)[index] = value;
    else if (dtype == BM_INT32) ((int32_t *)at)[index] = (int32_t)value;
    else if (dtype == BM_FLOAT16) ((_Float16 *)at)[index] = (_Float16)value;
    else {
        union { float value; uint32_t bits; } both = {value};
        uint32_t rounded = both.bits + 0x7FFF + ((both.bits >> 16) & 1);
        ((uint16_t *)at)[index] = isnan(value) ? 0x7FC0 : (uint16_t)(rounded >> 16);
    }
}

/* The model file. */

typedef struct { const char *at, *end; bool broken; } reader_t;

static void take(reader_t *reader, void *target, size_t bytes) {
    if (reader->broken || (size_t)(reader->end - reader->at) < bytes) { reader->broken = true; memset(target, 0, bytes); return; }
    memcpy(target, reader->at, bytes);
    reader->at += bytes;
}

static int take_int(reader_t *reader) { int32_t value; take(reader, &value, 4); return value; }

static char *take_name(reader_t *reader) {
    int length = take_int(reader);
    if (reader->broken || length < 0 || length > 200) { reader->broken = true; length = 0; }
    char *name = calloc((size_t)length + 1, 1);
    take(reader, name, (size_t)length);
    return name;
}

static void take_weights(reader_t *reader, model_t *model) {
    model->weight_count = take_int(reader);
    if (reader->broken || model->weight_count < 0 || model->weight_count > 10000) { reader->broken = true; model->weight_count = 0; }
    model->weights = calloc((size_t)model->weight_count + 1, sizeof(weight_t));
    for (int i = 0; i < model->weight_count && !reader->broken; i++) {
        weight_t *one = &model->weights[i];
        one->name = take_name(reader);
        one->count = (uint64_t)take_int(reader);
        if (one->count * 4 > (uint64_t)(reader->end - reader->at)) { reader->broken = true; return; }
        one->data = malloc(one->count * 4);
        take(reader, one->data, one->count * 4);
    }
}

static void take_net(reader_t *reader, net_t *net) {
    bm_net_info_t *info = &net->info;
    info->name = take_name(reader);
    net->kind = take_int(reader);
    info->is_dynamic = take_int(reader);
    info->addr_mode = take_int(reader);
    net->layer = take_int(reader);
    info->input_num = take_int(reader);
    info->output_num = take_int(reader);
    info->stage_num = take_int(reader);
    info->core_num = 1;
    int count = info->input_num + info->output_num;
    if (reader->broken || count > 16 || info->stage_num > 8) { reader->broken = true; info->input_num = info->output_num = info->stage_num = 0; return; }
    int *dtypes = calloc((size_t)count, sizeof(int)), *zeros = calloc(4 * (size_t)count, sizeof(int));
    const char **names = calloc((size_t)count, sizeof(char *));
    float *scales = calloc((size_t)count, sizeof(float));
    for (int i = 0; i < count; i++) { dtypes[i] = take_int(reader); names[i] = "tensor"; scales[i] = 1; }
    size_t *most = calloc((size_t)count, sizeof(size_t));
    info->stages = calloc((size_t)info->stage_num, sizeof(bm_stage_info_t));
    for (int s = 0; s < info->stage_num; s++) {
        bm_shape_t *shapes = calloc((size_t)count, sizeof(bm_shape_t));
        bm_device_mem_t *mems = calloc((size_t)count, sizeof(bm_device_mem_t));
        for (int i = 0; i < count; i++) {
            shapes[i].num_dims = take_int(reader);
            if (reader->broken || shapes[i].num_dims > 8) { reader->broken = true; shapes[i].num_dims = 0; }
            for (int d = 0; d < shapes[i].num_dims; d++) shapes[i].dims[d] = take_int(reader);
            mems[i].size = (unsigned)(count_of(&shapes[i]) * (uint64_t)width(dtypes[i]));
            if (mems[i].size > most[i]) most[i] = mems[i].size;
        }
        info->stages[s] = (bm_stage_info_t){shapes, shapes + info->input_num, mems, mems + info->input_num};
    }
    info->input_dtypes = dtypes; info->output_dtypes = dtypes + info->input_num;
    info->input_names = names; info->output_names = names + info->input_num;
    info->input_scales = scales; info->output_scales = scales + info->input_num;
    info->max_input_bytes = most; info->max_output_bytes = most + info->input_num;
    info->input_zero_point = zeros; info->output_zero_point = zeros + count;
    info->input_loc_devices = zeros + 2 * count; info->output_loc_devices = zeros + 3 * count;
}

static uint64_t io_bytes(const bm_net_info_t *info) {
    uint64_t sum = 0;
    for (int i = 0; i < info->input_num; i++) sum += (info->max_input_bytes[i] + 63) / 64 * 64;
    for (int i = 0; i < info->output_num; i++) sum += (info->max_output_bytes[i] + 63) / 64 * 64;
    return sum;
}

/* Give every tensor its compiled address; the stages of a network share them. Without BM_RUNTIME_SHARE_MEM they
   are not real. */
static bool place(runtime_t *runtime) {
    uint64_t arena = 64, weights = 64;
    for (int n = 0; n < runtime->net_count; n++) {
        bm_net_info_t *info = &runtime->nets[n].info;
        if (info->addr_mode == 0 && io_bytes(info) > arena) arena = io_bytes(info);
    }
    for (int i = 0; i < runtime->model.weight_count; i++) weights += 4 * runtime->model.weights[i].count;
    if (bm_malloc_device_byte(runtime->handle, &runtime->coefficients, (unsigned)weights)) return false;
    if (bm_malloc_device_byte(runtime->handle, &runtime->arena, (unsigned)arena)) return false;
    for (int n = 0; n < runtime->net_count; n++) {
        net_t *net = &runtime->nets[n];
        bm_net_info_t *info = &net->info;
        if (info->addr_mode != 0 && bm_malloc_device_byte(runtime->handle, &net->own, (unsigned)io_bytes(info))) return false;
        for (int s = 0; s < info->stage_num; s++) {
            uint64_t at = info->addr_mode ? net->own.u.device.device_addr : runtime->arena.u.device.device_addr;
            if (!(runtime->flags & 1)) at = 4096;
            for (int i = 0; i < info->input_num + info->output_num; i++) {
                info->stages[s].input_mems[i].u.device.device_addr = at;
                at += (info->max_input_bytes[i] + 63) / 64 * 64;
            }
        }
    }
    return true;
}

static void drop(runtime_t *runtime) {
    for (int n = 0; n < runtime->net_count; n++) {
        bm_net_info_t *info = &runtime->nets[n].info;
        if (runtime->nets[n].own.size) bm_free_device(runtime->handle, runtime->nets[n].own);
        for (int s = 0; info->stages && s < info->stage_num; s++) {
            free(info->stages[s].input_shapes);
            free(info->stages[s].input_mems);
        }
        free(info->stages); free(info->input_dtypes); free((void *)info->input_names); free(info->input_scales);
        free(info->max_input_bytes); free(info->input_zero_point); free((void *)info->name);
        memset(info, 0xA5, sizeof *info); /* whoever still looks at it shall see it */
    }
    if (runtime->arena.size) bm_free_device(runtime->handle, runtime->arena);
    if (runtime->coefficients.size) bm_free_device(runtime->handle, runtime->coefficients);
    for (int i = 0; i < runtime->model.weight_count; i++) { free(runtime->model.weights[i].name); free(runtime->model.weights[i].data); }
    free(runtime->model.weights);
    free(runtime->nets);
    memset(&runtime->model, 0, sizeof runtime->model);
    runtime->nets = NULL;
    runtime->net_count = 0;
    runtime->arena = runtime->coefficients = (bm_device_mem_t){0};
}

void *bmrt_create(bm_handle_t handle) {
    standin_enter(handle);
    runtime_t *runtime = standin_fault(FAULT_bmrt_create) ? NULL : calloc(1, sizeof *runtime);
    if (runtime) {
        runtime->handle = handle;
        __sync_add_and_fetch(&standin_control()->live_runtimes, 1);
    }
    standin_leave();
    return runtime;
}

void bmrt_destroy(void *which) {
    standin_enter(((runtime_t *)which)->handle);
    standin_fault(FAULT_bmrt_destroy);
    standin_discard(((runtime_t *)which)->handle);
    drop(which);
    free(which);
    __sync_sub_and_fetch(&standin_control()->live_runtimes, 1);
    standin_leave();
}

void bmrt_set_flags(void *which, uint32_t flags) {
    standin_fault(FAULT_bmrt_set_flags);
    ((runtime_t *)which)->flags = flags;
}

void bmrt_launch_tensor_multi_cores(void) { abort(); } /* only looked for */

static bool load(runtime_t *runtime, const char *path) {
    if (standin_fault(FAULT_bmrt_load_bmodel)) { printf("[BMRT][load_bmodel] WRONG: asked to fail\n"); return false; }
    FILE *file = fopen(path, "rb");
    if (!file) { printf("[BMRT][load_bmodel] WRONG: no such file %s\n", path); return false; }
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    char *bytes = malloc((size_t)size + 1);
    size_t got = fread(bytes, 1, (size_t)size, file);
    fclose(file);
    reader_t reader = {bytes, bytes + got, false};
    char magic[8];
    take(&reader, magic, 8);
    bool good = memcmp(magic, "VLSB1\0\0", 8) == 0;
    if (good) {
        take(&reader, runtime->model.ints, sizeof runtime->model.ints);
        take(&reader, runtime->model.floats, sizeof runtime->model.floats);
        take_weights(&reader, &runtime->model);
        runtime->net_count = take_int(&reader);
        if (reader.broken || runtime->net_count < 0 || runtime->net_count > 1000) runtime->net_count = 0;
        runtime->nets = calloc((size_t)runtime->net_count + 1, sizeof(net_t));
        for (int n = 0; n < runtime->net_count; n++) take_net(&reader, &runtime->nets[n]);
        good = !reader.broken && place(runtime);
    }
    free(bytes);
    if (!good) { printf("[BMRT][load_bmodel] FATAL: the model cannot be loaded\n"); drop(runtime); }
    return good;
}

bool bmrt_load_bmodel(void *which, const char *path) {
    standin_enter(((runtime_t *)which)->handle);
    bool good = load(which, path);
    standin_leave();
    return good;
}

int bmrt_get_network_number(void *which) {
    return standin_fault(FAULT_bmrt_get_network_number) ? 0 : ((runtime_t *)which)->net_count;
}

void bmrt_get_network_names(void *which, const char ***names) {
    runtime_t *runtime = which;
    if (standin_fault(FAULT_bmrt_get_network_names)) return;
    *names = malloc((size_t)(runtime->net_count + 1) * sizeof(char *));
    for (int n = 0; n < runtime->net_count; n++) (*names)[n] = runtime->nets[n].info.name;
}

static net_t *net_of(runtime_t *runtime, const char *name) {
    for (int n = 0; n < runtime->net_count; n++)
        if (!strcmp(runtime->nets[n].info.name, name)) return &runtime->nets[n];
    return NULL;
}

const bm_net_info_t *bmrt_get_network_info(void *which, const char *name) {
    net_t *net = net_of(which, name);
    return !net || standin_fault(FAULT_bmrt_get_network_info) ? NULL : &net->info;
}

/* Launches. */

static bool same(const bm_shape_t *one, const bm_shape_t *other) {
    return one->num_dims == other->num_dims && !memcmp(one->dims, other->dims, (size_t)one->num_dims * sizeof(int));
}

static bool fits(const bm_shape_t *real, const bm_shape_t *most) {
    if (real->num_dims != most->num_dims) return false;
    for (int d = 0; d < real->num_dims; d++) if (real->dims[d] > most->dims[d] || real->dims[d] < 1) return false;
    return true;
}

/* The stage that takes these inputs, or -1. */
static int stage_of(const bm_net_info_t *info, const bm_tensor_t *inputs) {
    for (int s = 0; s < info->stage_num; s++) {
        bool match = true;
        for (int i = 0; i < info->input_num && match; i++) {
            const bm_shape_t *most = &info->stages[s].input_shapes[i];
            match = info->is_dynamic ? i > 0 || fits(&inputs[i].shape, most)
                : info->stage_num == 1 ? count_of(&inputs[i].shape) == count_of(most) : same(&inputs[i].shape, most);
        }
        if (match) return s;
    }
    return -1;
}

static const char *wrong(const bm_net_info_t *info, const bm_tensor_t *inputs, int input_num, int output_num) {
    if (input_num != info->input_num || output_num != info->output_num) return "the number of tensors is wrong";
    for (int i = 0; i < input_num; i++) {
        uint64_t bytes = count_of(&inputs[i].shape) * (uint64_t)width(inputs[i].dtype);
        if (inputs[i].dtype != info->input_dtypes[i]) return "an input has another dtype";
        if (inputs[i].st_mode != 0) return "an input is not stored as 1N";
        if (bytes == 0 || inputs[i].device_mem.size < bytes) return "an input's memory is too small";
        if (!standin_at(inputs[i].device_mem.u.device.device_addr, bytes)) return "an input is not in device memory";
    }
    return NULL;
}

/* A dynamic network's outputs have as many rows as its first input. */
static bm_shape_t real_shape(const net_t *net, const bm_shape_t *most, const bm_shape_t *input) {
    bm_shape_t real = *most;
    if (!net->info.is_dynamic) return real;
    if (net->kind == BLOCK) real.dims[1] = input->dims[1];
    if (net->kind == VIT3 || net->kind == VIT25) real.dims[0] = input->dims[0] / 4;
    if (net->kind == ADD) real.dims[0] = input->dims[0];
    return real;
}

static float *floats_of(const port_t *port) {
    uint64_t count = count_of(&port->shape);
    const void *at = standin_at(port->address, count * (uint64_t)width(port->dtype));
    float *values = malloc(count * sizeof *values);
    for (uint64_t i = 0; i < count; i++) values[i] = to_float(at, port->dtype, i);
    return values;
}

static void put_floats(const port_t *port, uint64_t address) {
    uint64_t count = count_of(&port->shape);
    void *at = standin_at(address, count * (uint64_t)width(port->dtype));
    for (uint64_t i = 0; at && i < count; i++) from_float(at, port->dtype, i, port->values[i]);
}

static void run(void *what) {
    launch_t *launch = what;
    call_t *call = &launch->call;
    for (int i = 0; i < call->inputs; i++) {
        port_t *port = &call->in[i];
        port->values = floats_of(port);
        uint64_t bytes = count_of(&port->shape) * (uint64_t)width(port->dtype);
        if (launch->io_alone && port->address != port->own)
            memmove(standin_at(port->own, bytes), standin_at(port->address, bytes), bytes);
    }
    for (int i = 0; i < call->outputs; i++) call->out[i].values = calloc(count_of(&call->out[i].shape), sizeof(float));
    compute(call);
    if (!launch->io_alone) memset(standin_at(launch->arena, launch->arena_size), 0xFF, launch->arena_size);
    for (int i = 0; i < call->outputs; i++) {
        put_floats(&call->out[i], call->out[i].own);
        if (call->out[i].address != call->out[i].own) put_floats(&call->out[i], call->out[i].address);
        free(call->out[i].values);
    }
    for (int i = 0; i < call->inputs; i++) free(call->in[i].values);
    free(launch);
}

static bool refuse(const char *name, const char *why) {
    printf("[BMRT][launch] WRONG: %s: %s\n", name, why);
    fflush(stdout);
    standin_leave();
    return false;
}

bool bmrt_launch_tensor_ex(void *which, const char *name, const bm_tensor_t *inputs, int input_num,
                           bm_tensor_t *outputs, int output_num, bool user_mem, bool user_stmode) {
    runtime_t *runtime = which;
    standin_enter(runtime->handle);
    __sync_add_and_fetch(&standin_control()->launches, 1);
    if (standin_fault(FAULT_bmrt_launch_tensor_ex)) return refuse(name, "asked to fail");
    for (int64_t slept = 0, left; (left = standin_control()->launch_micros - slept) > 0; slept += 5000)
        usleep(left < 5000 ? (unsigned)left : 5000);
    net_t *net = net_of(runtime, name);
    if (!(runtime->flags & 1)) return refuse(name, "its addresses are not real");
    if (!net || !user_mem || user_stmode) return refuse(name, "no such network, or no memory for its outputs");
    const char *why = wrong(&net->info, inputs, input_num, output_num);
    int stage = why ? -1 : stage_of(&net->info, inputs);
    if (stage < 0) return refuse(name, why ? why : "Shapes of the input tensors are not supported");
    launch_t *launch = calloc(1, sizeof *launch);
    launch->call = (call_t){.model = &runtime->model, .kind = net->kind, .layer = net->layer,
                            .dynamic = net->info.is_dynamic, .inputs = input_num, .outputs = output_num};
    launch->io_alone = net->info.addr_mode != 0;
    launch->arena = runtime->arena.u.device.device_addr;
    launch->arena_size = runtime->arena.size;
    bm_stage_info_t *info = &net->info.stages[stage];
    for (int i = 0; i < input_num; i++)
        launch->call.in[i] = (port_t){inputs[i].dtype, inputs[i].shape, inputs[i].device_mem.u.device.device_addr,
                                      info->input_mems[i].u.device.device_addr, NULL};
    for (int i = 0; i < output_num; i++) {
        outputs[i].shape = real_shape(net, &info->output_shapes[i], &inputs[0].shape);
        outputs[i].dtype = net->info.output_dtypes[i];
        outputs[i].st_mode = 0;
        uint64_t bytes = count_of(&outputs[i].shape) * (uint64_t)width(outputs[i].dtype);
        uint64_t address = outputs[i].device_mem.u.device.device_addr;
        if (!standin_at(address, bytes)) { free(launch); return refuse(name, "an output does not fit into device memory"); }
        launch->call.out[i] = (port_t){outputs[i].dtype, outputs[i].shape, address,
                                       info->output_mems[i].u.device.device_addr, NULL};
    }
    standin_enqueue(runtime->handle, run, launch);
    if (net->info.is_dynamic) standin_drain(runtime->handle);
    standin_leave();
    return true;
}
