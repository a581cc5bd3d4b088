/* MPI's own all-reduce and reduce-scatter, to hold `test_comm bench` against. Not a test, not built with the rest:
 *
 *     mpicc -O2 tests/mpi_allreduce.c -o /tmp/mpi_allreduce && mpirun -n 2 /tmp/mpi_allreduce
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void)
{
    static const int sizes[] = {4, 1 << 12, 1 << 16, 1 << 20, 16 << 20, 256 << 20};
    int rank, n;
    MPI_Init(NULL, NULL);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n);
    for (int k = 0; k < 6; k++) {
        int count = sizes[k] / 4, turns = sizes[k] < 1 << 20 ? 400 : (256 << 20) / sizes[k] / 5 + 1;
        float *x = malloc((size_t)sizes[k]), *y = malloc((size_t)sizes[k]);
        int *counts = malloc(sizeof(int) * (size_t)n);
        memset(x, 0, (size_t)sizes[k]);
        memset(y, 0, (size_t)sizes[k]);
        for (int r = 0; r < n; r++)
            counts[r] = count / n + (r < count % n);
        double best[2] = {1e9, 1e9};
        for (int block = 0; block < 10; block++) {
            MPI_Barrier(MPI_COMM_WORLD);
            double start = MPI_Wtime();
            for (int t = 0; t < turns; t++)
                if (block % 2)
                    MPI_Allreduce(MPI_IN_PLACE, x, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
                else
                    MPI_Reduce_scatter(x, y, counts, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
            double took = (MPI_Wtime() - start) / turns;
            best[block % 2] = took < best[block % 2] ? took : best[block % 2];
        }
        if (rank == 0)
            printf("MPI's    %d ranks  %10d bytes  all_reduce %10.1f us %6.2f GB/s   reduce_scatter %10.1f us %6.2f GB/s\n", n,
                   sizes[k], best[1] * 1e6, sizes[k] / best[1] * 1e-9, best[0] * 1e6, sizes[k] / best[0] * 1e-9);
        free(x);
        free(y);
        free(counts);
    }
    MPI_Finalize();
    return 0;
}
