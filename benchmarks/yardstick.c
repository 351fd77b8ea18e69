/* R: one read of a float array with every thread, the yardstick of the speed goals. */
#include <omp.h>
#include <stddef.h>

double seconds_to_read(const float *x, size_t rows, size_t k, double *checksum) {
    double total = 0, start = omp_get_wtime();
#pragma omp parallel for schedule(static) reduction(+ : total)
    for (size_t i = 0; i < rows; i++) {
        const float *row = x + i * k;
        float s = 0;
        __builtin_prefetch(row + 8 * k);
#pragma omp simd reduction(+ : s)
        for (size_t j = 0; j < k; j++) s += row[j];
        total += s;
    }
    *checksum = total;
    return omp_get_wtime() - start;
}
