/* The ABI of libbmlib and libbmrt as far as the server binds it, written from the sizes and offsets of the
   vendor's headers; and what the stand-in's own files share. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct bm_context *bm_handle_t;
typedef enum { BM_SUCCESS, BM_ERR_DEVNOTREADY, BM_ERR_FAILURE, BM_ERR_TIMEOUT, BM_ERR_PARAM, BM_ERR_NOMEM } bm_status_t;
enum { BM_FLOAT32 = 0, BM_FLOAT16 = 1, BM_INT32 = 6, BM_BFLOAT16 = 8 };

typedef struct bm_mem_desc {
    union {
        struct { unsigned long device_addr; unsigned int reserved; int dmabuf_fd; } device;
        struct { void *system_addr; unsigned int reserved0; int reserved1; } system;
    } u;
    union { struct { unsigned mem_type : 3, gmem_heapid : 3, reserved : 26; } u; unsigned rawflags; } flags;
    unsigned int size;
} bm_device_mem_t;
typedef struct { int num_dims; int dims[8]; } bm_shape_t;
typedef struct { int dtype; bm_shape_t shape; bm_device_mem_t device_mem; int st_mode; } bm_tensor_t;
typedef struct { bm_shape_t *input_shapes, *output_shapes; bm_device_mem_t *input_mems, *output_mems; } bm_stage_info_t;
typedef struct {
    const char *name;
    bool is_dynamic;
    int input_num;
    char const **input_names;
    int *input_dtypes;
    float *input_scales;
    int output_num;
    char const **output_names;
    int *output_dtypes;
    float *output_scales;
    int stage_num;
    bm_stage_info_t *stages;
    size_t *max_input_bytes, *max_output_bytes;
    int *input_zero_point, *output_zero_point, *input_loc_devices, *output_loc_devices;
    int core_num;
    int32_t addr_mode;
} bm_net_info_t;
typedef struct { unsigned mem_total, mem_avail, mem_used; } bm_heap_stat_t;
typedef struct { int mem_total, mem_used, tpu_util, heap_num; bm_heap_stat_t heap_stat[4]; } bm_dev_stat_t;

#define SIZE(kind, bytes) _Static_assert(sizeof(kind) == bytes, #kind)
#define PLACE(kind, field, bytes) _Static_assert(offsetof(kind, field) == bytes, #kind "." #field)
SIZE(bm_device_mem_t, 24); PLACE(bm_device_mem_t, flags, 16); PLACE(bm_device_mem_t, size, 20);
SIZE(bm_shape_t, 36);
SIZE(bm_tensor_t, 72); PLACE(bm_tensor_t, shape, 4); PLACE(bm_tensor_t, device_mem, 40); PLACE(bm_tensor_t, st_mode, 64);
SIZE(bm_stage_info_t, 32);
SIZE(bm_net_info_t, 144); PLACE(bm_net_info_t, input_num, 12); PLACE(bm_net_info_t, output_num, 40);
PLACE(bm_net_info_t, stage_num, 72); PLACE(bm_net_info_t, stages, 80); PLACE(bm_net_info_t, addr_mode, 140);
SIZE(bm_dev_stat_t, 64); SIZE(bm_heap_stat_t, 12);

/* Every function, in the order of the control page: those that can be made to fail, and those that are only
   counted. */
#define FUNCTIONS(X) \
    X(bm_dev_getcount) X(bm_dev_request) X(bm_get_chipid) X(bm_get_stat) X(bm_malloc_device_byte) \
    X(bm_memcpy_s2d_partial_offset) X(bm_memcpy_d2s_partial_offset) X(bm_memcpy_d2d_byte) \
    X(bm_memset_device_ext) X(bm_thread_sync) X(bmrt_create) X(bmrt_load_bmodel) \
    X(bmrt_get_network_info) X(bmrt_launch_tensor_ex) \
    X(bm_dev_free) X(bm_free_device) X(bmrt_destroy) X(bmrt_set_flags) X(bmrt_get_network_number) \
    X(bmrt_get_network_names)
#define ENTRY(name) FAULT_##name,
enum { FUNCTIONS(ENTRY) FAULTS };

/* The control page: a file that a test maps too (VLSTANDIN_CONTROL), or private memory. */
typedef struct {
    int64_t live_bytes, live_blocks, live_handles, live_runtimes;
    int64_t limit_bytes;    /* of device memory; 0: 15 GiB */
    int64_t launches;
    int64_t callers;        /* inside of a call now */
    int64_t most_callers;   /* at once, of all handles */
    int64_t threads;        /* that any one handle was used by, one after another */
    int64_t launch_micros;  /* each launch takes so much longer, until this is less again */
    int64_t devices;        /* as bm_dev_getcount says; 0: one */
    int64_t host_refused;   /* accesses outside of any allocation */
    int64_t reserved[4];
    struct { int64_t countdown, code, sticky, calls; } faults[FAULTS]; /* countdown 1: the next call fails */
} control_t;

extern control_t *standin_control(void);
int standin_fault(int function);                     /* the code that this call fails with, or 0 */
void standin_enter(bm_handle_t);                     /* counts callers and threads; aborts for what is no handle,
                                                        NULL where there is none yet */
void standin_leave(void);
void *standin_at(uint64_t address, uint64_t size);   /* host memory behind device memory, NULL if it is none */
void standin_enqueue(bm_handle_t, void (*run)(void *), void *job);
void standin_drain(bm_handle_t);                     /* run what this thread has queued on a handle */
void standin_discard(bm_handle_t);                   /* forget what is queued on a handle */
bm_status_t bm_malloc_device_byte(bm_handle_t, bm_device_mem_t *, unsigned int);
void bm_free_device(bm_handle_t, bm_device_mem_t);
