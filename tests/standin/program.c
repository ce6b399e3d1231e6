/* A program over the stand-in, for tools that look for errors in C: with a model's path it launches every network;
   else it uses memory and handles, and with a number does what must not be done. */
#include "standin.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
bm_status_t bm_dev_request(bm_handle_t *, int);
bm_status_t bm_memcpy_s2d_partial_offset(bm_handle_t, bm_device_mem_t, void *, unsigned, unsigned);
bm_status_t bm_thread_sync(bm_handle_t);
void bm_dev_free(bm_handle_t);
void *bmrt_create(bm_handle_t);
void bmrt_destroy(void *), bmrt_set_flags(void *, uint32_t), bmrt_get_network_names(void *, const char ***);
bool bmrt_load_bmodel(void *, const char *);
int bmrt_get_network_number(void *);
const bm_net_info_t *bmrt_get_network_info(void *, const char *);
bool bmrt_launch_tensor_ex(void *, const char *, const bm_tensor_t *, int, bm_tensor_t *, int, bool, bool);

/* Launch every network once, on zeros. */
static int run(bm_handle_t handle, const char *path) {
    static char zeros[1 << 22];
    const char **names;
    void *runtime = bmrt_create(handle);
    bmrt_set_flags(runtime, 1);
    if (!bmrt_load_bmodel(runtime, path)) return 1;
    bmrt_get_network_names(runtime, &names);
    int count = bmrt_get_network_number(runtime);
    for (int n = 0; n < count; n++) {
        const bm_net_info_t *info = bmrt_get_network_info(runtime, names[n]);
        bm_stage_info_t *stage = &info->stages[0];
        bm_tensor_t tensors[16] = {0};
        for (int i = 0; i < info->input_num + info->output_num; i++) { /* the outputs' follow the inputs' */
            tensors[i].dtype = info->input_dtypes[i];
            tensors[i].shape = stage->input_shapes[i];
            if (bm_malloc_device_byte(handle, &tensors[i].device_mem, stage->input_mems[i].size)) return 2;
            unsigned size = tensors[i].device_mem.size;
            if (size > sizeof zeros || bm_memcpy_s2d_partial_offset(handle, tensors[i].device_mem, zeros, size, 0)) return 3;
        }
        if (!bmrt_launch_tensor_ex(runtime, names[n], tensors, info->input_num, tensors + info->input_num,
                                   info->output_num, true, false)) return 4;
        if (bm_thread_sync(handle)) return 5;
        for (int i = 0; i < info->input_num + info->output_num; i++) bm_free_device(handle, tensors[i].device_mem);
    }
    free(names);
    bmrt_destroy(runtime);
    bm_dev_free(handle);
    if (standin_control()->live_bytes || standin_control()->live_handles || standin_control()->live_runtimes) return 6;
    printf("ran %d\n", count);
    return 0;
}

int main(int count, char **words) {
    bm_handle_t handle;
    bm_device_mem_t memory, other;
    bm_dev_request(&handle, 0);
    if (count > 2) return run(handle, words[2]);
    bm_malloc_device_byte(handle, &memory, 64);
    int what = count > 1 ? atoi(words[1]) : 0;
    if (what == 1) bm_free_device(handle, memory);
    other = memory;
    if (what == 2) other.u.device.device_addr += 8;
    if (what == 3) other.u.device.device_addr = (unsigned long)&other;
    if (what == 2 || what == 3) bm_free_device(handle, other);
    bm_free_device(handle, memory);
    if (what == 4) bm_dev_free(malloc(64));
    bm_dev_free(handle);
    if (standin_control()->live_bytes || standin_control()->live_handles) return 3;
    puts("fine");
    return 0;
}
