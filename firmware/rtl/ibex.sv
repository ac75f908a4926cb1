// Ibex without what is not used of it: no integrity bits, no debugger, one interrupt. FAST = 0: its default pipeline;
// FAST = 1: writeback stage, branch target ALU, single-cycle multiplier, bit manipulation.
module ibex #(parameter bit FAST = 1'b0) (
  input  logic        clk,
  input  logic        rst_n,
  input  logic        interrupt,
  output logic        instr_req,
  input  logic        instr_rvalid,
  output logic [31:0] instr_addr,
  input  logic [31:0] instr_rdata,
  output logic        data_req,
  input  logic        data_gnt,
  input  logic        data_rvalid,
  output logic        data_we,
  output logic [3:0]  data_be,
  output logic [31:0] data_addr,
  output logic [31:0] data_wdata,
  input  logic [31:0] data_rdata
);
  ibex_top #(
    .RV32M          (FAST ? ibex_pkg::RV32MSingleCycle : ibex_pkg::RV32MFast),
    .RV32B          (FAST ? ibex_pkg::RV32BBalanced : ibex_pkg::RV32BNone),
    .WritebackStage (FAST),
    .BranchTargetALU(FAST)
  ) core (
    .clk_i(clk), .rst_ni(rst_n), .test_en_i(1'b0), .ram_cfg_i('0), .hart_id_i('0), .boot_addr_i(32'h8000_0000),
    .instr_req_o(instr_req), .instr_gnt_i(instr_req), .instr_rvalid_i(instr_rvalid), .instr_addr_o(instr_addr),
    .instr_rdata_i(instr_rdata), .instr_rdata_intg_i('0), .instr_err_i(1'b0),
    .data_req_o(data_req), .data_gnt_i(data_gnt), .data_rvalid_i(data_rvalid), .data_we_o(data_we), .data_be_o(data_be),
    .data_addr_o(data_addr), .data_wdata_o(data_wdata), .data_wdata_intg_o(), .data_rdata_i(data_rdata),
    .data_rdata_intg_i('0), .data_err_i(1'b0),
    .irq_software_i(1'b0), .irq_timer_i(1'b0), .irq_external_i(interrupt), .irq_fast_i('0), .irq_nm_i(1'b0),
    .scramble_key_valid_i(1'b0), .scramble_key_i('0), .scramble_nonce_i('0), .scramble_req_o(),
    .debug_req_i(1'b0), .crash_dump_o(), .double_fault_seen_o(),
    .fetch_enable_i(ibex_pkg::IbexMuBiOn), .alert_minor_o(), .alert_major_internal_o(), .alert_major_bus_o(),
    .core_sleep_o(),
    .scan_rst_ni(1'b1)
  );
endmodule
