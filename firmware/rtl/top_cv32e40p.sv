// CV32E40P with its DSP extension on (scalar images do not use it).
module top (input logic clk, input logic rst_n);
  logic        instr_req, instr_rvalid, data_req, data_rvalid, data_we;
  logic [31:0] instr_addr, instr_rdata, data_addr, data_wdata, data_rdata;
  logic [3:0]  data_be;

  memory memory (.*);

  cv32e40p_top #(.COREV_PULP(1)) core (
    .clk_i(clk), .rst_ni(rst_n), .pulp_clock_en_i(1'b1), .scan_cg_en_i(1'b0),
    .boot_addr_i(32'h8000_0000), .mtvec_addr_i(32'h8000_0000), .dm_halt_addr_i('0), .hart_id_i('0), .dm_exception_addr_i('0),
    .instr_req_o(instr_req), .instr_gnt_i(instr_req), .instr_rvalid_i(instr_rvalid), .instr_addr_o(instr_addr),
    .instr_rdata_i(instr_rdata),
    .data_req_o(data_req), .data_gnt_i(data_req), .data_rvalid_i(data_rvalid), .data_we_o(data_we), .data_be_o(data_be),
    .data_addr_o(data_addr), .data_wdata_o(data_wdata), .data_rdata_i(data_rdata),
    .irq_i('0), .irq_ack_o(), .irq_id_o(), .debug_req_i(1'b0), .debug_havereset_o(), .debug_running_o(), .debug_halted_o(),
    .fetch_enable_i(1'b1), .core_sleep_o()
  );
endmodule

// There is no floating-point unit; the wrapper is only named.
module cv32e40p_fp_wrapper
  import cv32e40p_apu_core_pkg::*;
#(
  parameter FPU_ADDMUL_LAT = 0,
  parameter FPU_OTHERS_LAT = 0
) (
  input  logic                              clk_i,
  input  logic                              rst_ni,
  input  logic                              apu_req_i,
  output logic                              apu_gnt_o,
  input  logic [APU_NARGS_CPU-1:0][31:0]    apu_operands_i,
  input  logic [APU_WOP_CPU-1:0]            apu_op_i,
  input  logic [APU_NDSFLAGS_CPU-1:0]       apu_flags_i,
  output logic                              apu_rvalid_o,
  output logic [31:0]                       apu_rdata_o,
  output logic [APU_NUSFLAGS_CPU-1:0]       apu_rflags_o
);
  assign {apu_gnt_o, apu_rvalid_o, apu_rdata_o, apu_rflags_o} = '0;
endmodule
