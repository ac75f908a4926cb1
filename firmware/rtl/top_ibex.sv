// Ibex with memory beside it; FAST as in ibex.sv.
module top #(parameter bit FAST = 1'b0) (input logic clk, input logic rst_n);
  logic        instr_req, instr_rvalid, data_req, data_rvalid, data_we;
  logic [31:0] instr_addr, instr_rdata, data_addr, data_wdata, data_rdata;
  logic [3:0]  data_be;

  memory memory (.*);

  ibex #(.FAST(FAST)) core (.data_gnt(data_req), .interrupt(1'b0), .*);
endmodule
